"""Every figure that README, MODEL and docs print, its origin, and whether it still comes out: python -m verdicts.

`docs/figures.yaml` is the ledger: which sentence of which document prints which figure of which kept table or run. The
tests hold what tables give to it, in seconds; `make paper` makes tables, runs, pages and pictures anew and writes one
table of verdicts, `docs/verdicts.md`.

numbers      figures as text prints them
kept         rows of the table of verdicts, and what was made anew so far, kept for a run that goes on
tables       kept tables: rows of them, and two of them beside one another
ledger       the quotes of `docs/figures.yaml`
figures      what the expressions of quotes stand for: rows of tables, runs, the page of validation
quotes       quotes held to their documents and to their figures
runs         values of quotes that need runs, and the rows of all quotes
uncovered    figures of documents that no quote has
pictures     pictures drawn anew beside those that are kept
experiments  experiments run anew, their tables and pictures beside those that they keep
pages        blocks of documentation followed, bands around published figures
verified     what the verification suite and the paper's claims say
suite        all parts in their order
page         the table of verdicts, as a page and printed
"""
