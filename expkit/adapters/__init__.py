"""Environments of other libraries: what their spaces are as columns, and wrappers that record what they do.

layouts, spaces   values of Gymnasium spaces as columns of rows, and back
masks             which actions are legal, wherever an environment says so
gymnasium, vector, pettingzoo   the wrappers behind `expkit.wrap`; the only modules that import these libraries
"""
