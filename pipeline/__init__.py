"""pipeline: who runs what, where, with which settings.

cli        the verbs and their flags
options    flags that several verbs share
commands/  what a verb does: open, plan, run the stages, tell; one file a verb
exit_codes what samkit leaves with
config     samkit.toml, and where the user's secrets and weights live
plan       what is to be computed, decided without touching anything
workers    the devices and the scheduler that flags name
shards     who computes shards: this process, or a cluster
cluster    shards by the workers of a dask cluster
dispatch   which shard goes to which worker, decided without touching any
stations   what runs inside those workers
versions   what has to be the same wherever rows are made
grid       every head on every draw, decided before any is trained
trainers   runs of a grid, several processes at once
clients    how a dask cluster is started or reached
forks      processes that do one task at a time, forked from one that is ready
processes  how many processes read sources, and what a crash in one of them costs
console    tables, bars and messages
demo       the whole job on a sample it writes itself
"""
