"""reporting: what `report` is made of.

table    the table of runs: what was compared, class by class, over draws
formats  the table as papers print it
figures  plots of the runs' numbers
cases    test volumes slice by slice, with the outlines of reference and prediction
costs    what encoding once has cost, and what encoding in every step would have
spectra  what embeddings hold, as colours
"""
