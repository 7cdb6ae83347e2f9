"""What environments of other libraries see, do and allow, as fields and rows.
Imports formats and all that stands below; none of the packages beside it.

    layouts, spaces       values of Gymnasium spaces as columns of rows, and back
    masks                 which actions are legal, wherever an environment says so
    told                  rewards, flags and bits: taken for what they mean, or refused
    undisturbed           an observation that nobody asked for, without moving random streams
    environment           the schema of an environment, and what it returns as columns; what a run is told of it
    episode_rows          an episode as rows: an action is held until what it caused is known
    env_rows, agent_rows  of single environments, and of those with several agents, in turns or at once

The libraries themselves are imported where they are used.
"""
