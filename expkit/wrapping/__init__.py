"""Environments of other libraries: what their spaces are as columns, and wrappers that record what they do.

    layouts, spaces   values of Gymnasium spaces as columns of rows, and back
    masks             which actions are legal, wherever an environment says so
    environment       the schema of an environment, and what it returns as columns; what a run is told of it
    episode_rows      an episode as rows: an action is held until what it caused is known
    gymnasium, vector, pettingzoo   single, vector, AEC and Parallel environments; they alone import these libraries
    wrapping          `expkit.wrap`

All of it is imported where it is used, for these libraries are extras.
"""
