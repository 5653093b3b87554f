"""Who asks, when, and for what.

laws      laws of arrivals and lengths, and requests as endless columns
traces    files of recorded requests
"""
