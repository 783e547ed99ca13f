"""The command line: parse, call a study, print. No science here.

Exit codes: 0 done; 1 stopped by Ctrl-C, SIGTERM or SIGHUP (what was done so far is kept and said);
2 bad input, or a result that cannot be written where it was to be, with one sentence on standard
error. A reader that leaves early, as ``head`` does, is no error: what was measured is saved.
"""
