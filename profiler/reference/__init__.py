"""The reference: runs recorded on a real GPU, and the predictions held against them for ever.

suite        what is run, most informative first      probes      one operation each, for the kernels' rules
campaign     records all of it on one device          recording   reads what a campaign wrote
prediction   what formula and simulation say of it    accuracy    errors, their spread, their bounds
residuals    allocations that only one of the two made
"""
