"""Every small change of the functions of a module: what mutation testing calls its mutants.

A change replaces one node of the syntax tree. Annotations, decorators, default values, docstrings, texts and whatever
stands outside of functions are left alone, as is `strict=` of a zip, which only checks.
"""

from __future__ import annotations

import ast
import copy
from collections.abc import Iterator
from dataclasses import dataclass
from types import CodeType, FunctionType, ModuleType
from typing import Any

FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
COMPARED = {
    ast.Lt: (ast.LtE, ast.GtE),
    ast.LtE: (ast.Lt, ast.Gt),
    ast.Gt: (ast.GtE, ast.LtE),
    ast.GtE: (ast.Gt, ast.Lt),
    ast.Eq: (ast.NotEq,),
    ast.NotEq: (ast.Eq,),
    ast.Is: (ast.IsNot,),
    ast.IsNot: (ast.Is,),
    ast.In: (ast.NotIn,),
    ast.NotIn: (ast.In,),
}
COMPUTED = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.FloorDiv,
    ast.Pow: ast.Mult,
    ast.LShift: ast.RShift,
    ast.RShift: ast.LShift,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
    ast.BitXor: ast.BitAnd,
}
NAMED = {
    one: other
    for pair in (("min", "max"), ("minimum", "maximum"), ("argmin", "argmax"), ("floor", "ceil"), ("any", "all"))
    for one, other in (pair, pair[::-1])
}
"""Functions that are called in place of each other."""
SYMMETRIC = {"min", "max", "np.minimum", "np.maximum"}
"""Functions that do not care for the order of their arguments."""


@dataclass(frozen=True, kw_only=True)
class Change:
    """One node of a function that becomes another."""

    function: str
    """Qualified name of the outermost function, which is what is put in place."""
    start: int
    """First line of that function, decorators too."""
    where: tuple[ast.AST, str, int | None]
    """What holds the node, in which field, and where in it if that is a list."""
    old: ast.AST
    new: ast.AST

    @property
    def line(self) -> int:
        """Where what is changed begins."""
        return getattr(self.old, "lineno", 0)

    @property
    def before(self) -> str:
        """What is changed, to the end of its first line."""
        return ast.unparse(self.old).partition("\n")[0]

    @property
    def after(self) -> str:
        """What stands there then."""
        return ast.unparse(self.new).partition("\n")[0]

    def __str__(self) -> str:
        return f"{self.line}: {self.before}  ->  {self.after}"

    def made(self) -> None:
        """Make the change in the tree that it is of."""
        holder, name, place = self.where
        if place is None:
            setattr(holder, name, self.new)
        else:
            getattr(holder, name)[place] = self.new


def changes(tree: ast.Module) -> Iterator[Change]:
    """Yield the changes of all functions, in the order of the text."""
    for function, name in _functions(tree, ""):
        body = [place for place, line in enumerate(function.body) if place or not _is_text(line)]
        start = min([function.lineno, *(each.lineno for each in function.decorator_list)])
        last = function.body[-1]
        for place in body:
            for where, old, new in _within(function, "body", place, last):
                yield Change(function=name, start=start, where=where, old=old, new=new)


def put_in_place(module: ModuleType, tree: ast.Module, change: Change) -> None:
    """Make a change in the running module: whoever holds the function, holds the changed one."""
    change.made()
    code = compile(ast.fix_missing_locations(tree), str(module.__file__), "exec")
    (found,) = (
        each for each in _codes(code) if (each.co_qualname, each.co_firstlineno) == (change.function, change.start)
    )
    running(module, change.function).__code__ = found


def running(module: ModuleType, name: str) -> FunctionType:
    """Return the function behind a qualified name, whatever decorates it."""
    found: Any = module
    for part in name.split("."):
        found = vars(found)[part]
    while not isinstance(found, FunctionType):
        found = next(
            getattr(found, each) for each in ("__wrapped__", "fget", "func", "__func__") if hasattr(found, each)
        )
    while hasattr(found, "__wrapped__"):
        found = found.__wrapped__
    return found


def _functions(holder: Any, prefix: str) -> Iterator[tuple[Any, str]]:
    """Yield outermost functions with their qualified names; those of a Protocol have no body."""
    for node in holder.body:
        if isinstance(node, ast.ClassDef) and not any("Protocol" in ast.unparse(base) for base in node.bases):
            yield from _functions(node, f"{prefix}{node.name}.")
        elif isinstance(node, FUNCTIONS):
            yield node, prefix + node.name


def _codes(code: CodeType) -> Iterator[CodeType]:
    yield code
    for each in code.co_consts:
        if isinstance(each, CodeType):
            yield from _codes(each)


Found = tuple[tuple[ast.AST, str, int | None], ast.AST, ast.AST]


def _within(holder: ast.AST, name: str, place: int | None, last: ast.stmt) -> Iterator[Found]:
    """Yield (where, old node, new node) of what is at one place and below."""
    held = getattr(holder, name)
    node = held if place is None else held[place]
    if _left_alone(node):
        return
    for new in _replaced(node, last):
        yield (holder, name, place), node, ast.copy_location(new, node)
    for field, value in ast.iter_fields(node):
        if field in {"annotation", "decorator_list", "args", "returns"} and not isinstance(node, ast.Call):
            continue
        if isinstance(value, ast.AST):
            yield from _within(node, field, None, last)
        elif isinstance(value, list):
            for number, each in enumerate(value):
                if isinstance(each, ast.AST):
                    yield from _within(node, field, number, last)


def _left_alone(node: ast.AST) -> bool:
    checks = isinstance(node, ast.keyword) and node.arg == "strict"
    return checks or _is_text(node) or isinstance(node, ast.JoinedStr | ast.Import | ast.ImportFrom)


def _is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def _replaced(node: ast.AST, last: ast.stmt) -> Iterator[ast.AST]:
    """Yield what may stand in a node's place."""
    match node:
        case ast.Constant(value=bool(value)):
            yield ast.Constant(not value)
        case ast.Constant(value=int(value) | float(value)):
            yield from (ast.Constant(value + 1), ast.Constant(value - 1))
        case ast.If(test=test) | ast.IfExp(test=test) | ast.While(test=test) if _opposite(test):
            new = copy.copy(node)
            new.test = ast.UnaryOp(ast.Not(), test)
            yield new
        case ast.Call():
            yield from _called(node)
        case ast.stmt():
            yield from _removed(node, last)
        case ast.expr():
            yield from _operated(node)


def _operated(node: ast.expr) -> Iterator[ast.AST]:
    """Yield an expression with another operator."""
    match node:
        case ast.Compare(left=left, ops=ops, comparators=others):
            for place, each in enumerate(ops):
                for new in COMPARED[type(each)]:
                    yield ast.Compare(left, [*ops[:place], new(), *ops[place + 1 :]], others)
        case ast.BinOp(left=left, op=op, right=right) if type(op) in COMPUTED:
            yield ast.BinOp(left, COMPUTED[type(op)](), right)
        case ast.UnaryOp(op=ast.Not() | ast.USub(), operand=operand):
            yield operand
        case ast.BoolOp(op=op, values=values):
            yield ast.BoolOp(ast.Or() if isinstance(op, ast.And) else ast.And(), values)


def _opposite(test: ast.expr) -> bool:
    """Whether a condition has no operator of its own to change."""
    return not isinstance(test, ast.Compare | ast.BoolOp | ast.UnaryOp | ast.Constant)


def _called(node: ast.Call) -> Iterator[ast.AST]:
    """Yield a call with two neighbouring arguments swapped, and of the function's opposite."""
    for place, (one, other) in enumerate(zip(node.args, node.args[1:], strict=False)):
        alike = ast.unparse(node.func) in SYMMETRIC
        plain = not alike and not isinstance(one, ast.Starred) and not isinstance(other, ast.Starred)
        if plain and ast.dump(one) != ast.dump(other):
            yield ast.Call(node.func, [*node.args[:place], other, one, *node.args[place + 2 :]], node.keywords)
    match node.func:
        case ast.Name(id=name) if name in NAMED:
            yield ast.Call(ast.Name(NAMED[name], ast.Load()), node.args, node.keywords)
        case ast.Attribute(value=value, attr=name) if name in NAMED:
            yield ast.Call(ast.Attribute(value, NAMED[name], ast.Load()), node.args, node.keywords)


def _removed(node: ast.stmt, last: ast.stmt) -> Iterator[ast.AST]:
    """Yield an empty statement in place of one that names nothing that is needed later."""
    match node:
        case ast.AugAssign(target=target, op=op, value=value):
            yield ast.Pass()
            if type(op) in COMPUTED:
                yield ast.AugAssign(target, COMPUTED[type(op)](), value)
        case ast.Assign(targets=[target]) if not isinstance(target, ast.Name | ast.Tuple):
            yield ast.Pass()
        case ast.Expr() | ast.Raise() | ast.Continue() | ast.Break():
            yield ast.Pass()
        case ast.Return() if node is not last:
            yield ast.Pass()
