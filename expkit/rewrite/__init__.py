"""The one engine under compact, merge and rewrite: whole episodes are read out of runs and written anew.
Imports validation and all that stands below.

segments   where the rows of all episodes are, over one run or several
layout     which episodes share an output shard, and which rows an output block
gather     the rows of an output block out of the blocks that hold them, each decoded as few times as possible
change     what becomes of the boards of each run: another representation, a larger board
engine     gather, transform, encode, append; reading runs beside encoding
prove      an output holds what its sources held
compact    a run in place · merge, filter: runs into a new one
"""
