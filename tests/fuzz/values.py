"""What is put in place of a value: limits of types, words of YAML, names with markup, and nothing."""

NUMBERS = (0, -1, 1, 2, 3, 7, 1e-300, 1e-9, 0.5, 1e9, 1e18, 1e308, 2**31 - 1, 2**31, 2**63 - 1, 2**63, 10**30, -(2**63))
TEXTS = (
    "", " ", "null", "~", "nan", "inf", "-inf", ".nan", ".inf", "yes", "true", "1e400", "0x10", "1_000", "12:30:45", "1e3", "-0",
    "1 s", "0 s", "-1 ms", "1e300 s", "1 req/s", "inf", "1e9 req/s", "0 req/s", "400Gbps", "0 Gbps", "1 PB", "3 USD/h",
    "../../evil", "/etc/passwd", "$x_$", "_" * 40, "[red]", "<script>alert(1)</script>", "\x1b[31m", "\u202e", "\u2028", "\x00",
    "a\nb", "'", '"', "{", "[", "%s", "{0}", "x" * 5000, "H20", "step3-small", "small", "afd", "colocated", "tensor_parallel",
    "closed_loop", "poisson", "trace", "grow", "attention[0]", "ffn[9]", "experts", "shared", "*a", "&a b", "!!python/object:os.system x",
)  # fmt: skip
SHAPES = (None, True, False, [], {}, [1], [[[]]], {"a": {}}, ["a"] * 50, {"type": "afd"})
EVERY = (*NUMBERS, *TEXTS, *SHAPES)

SIGNS = (
    "\0",
    "\ufeff",
    "\t",
    "\r",
    "\n",
    ":",
    "#",
    ",",
    ";",
    '"',
    "'",
    "{",
    "}",
    "-",
    "é",
    "🎉",
    "\x1b",
    "\ud7ff",
    "9",
    "0",
    "e",
)
"""Single characters that are put into texts."""
