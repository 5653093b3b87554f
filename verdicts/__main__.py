from verdicts import ledger, uncovered, quotes, figures
import sys
r = ledger.read()
if sys.argv[1:]:
    print(uncovered.report(uncovered.counted(d, r) for d in uncovered.documents()))
else:
    n=0
    for q in r.quotes:
        if figures.needs_run(q, r):
            s=quotes.stands(q)
            if isinstance(s, quotes.Fault): print('STAND', s.why)
            continue
        try:
            f=quotes.held(q, r)
        except Exception as e:
            print('ERR', type(e), e); continue
        n+=len(q.figures)
        for x in f: print(x.quote.document, x.why)
    print(len(r.quotes), 'quotes', n, 'figures')
