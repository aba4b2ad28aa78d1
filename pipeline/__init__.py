"""pipeline: who runs what, where, with which settings.

cli        the verbs and their flags
commands/  what a verb does: open, plan, run the stages, tell; one file a verb
exit_codes what samkit leaves with
config     samkit.toml, and where the user's secrets and weights live
plan       what is to be computed, decided without touching anything
cluster    where work is done: in this process, or by dask workers
processes  how many processes read sources, and what a crash in one of them costs
console    tables, bars and messages
demo       the whole job on a sample it writes itself
"""
