"""commands: what each verb does: open, plan, run the stages, tell the user. One file a verb.

init       a commented samkit.toml from what a folder holds
ingest     what a folder holds, and what became of each source
check      ingest --check: how much of the labels survives the encoder's grid
scratch    where archives are unpacked, for as long as they are read
embed      what is missing is computed, wherever it is computed
costs      what embedding costs, before it is paid
repair     embed --repair: what is damaged is taken away
split      who may be drawn and who is scored, by a rule or a file
split_files how others write that
train      train-head: a head on each draw, and its table
pretrain   what a head learns without labels before its first run
experiment a grid of heads and draws, and how the heads compare
predict    masks for the volumes of the workspace, or for new files
unfinished masks of a predict that was stopped, which the same command writes again
report     the table of all runs, and the page
verify     whether everything is what was written, and what the encoder answers
remove     volumes leave the dataset; a recipe or a run goes for good
gc         what nothing needs any more leaves the disk
status     what exists, what is missing or stale, what to type next
hints      what a suggested command needs so that it can be copied
weights    which checkpoint a command loads, and the shelf they are kept on
"""
