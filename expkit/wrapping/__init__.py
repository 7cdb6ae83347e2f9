"""`expkit.wrap`: environments of Gymnasium and PettingZoo that are recorded while they are used.
Imports recorder and all that stands below.

    wrap                            the function, which finds out what it is given
    gymnasium, vector, pettingzoo   single, vector, AEC and Parallel environments; they alone import these libraries

All of it is imported where it is used, for these libraries are extras.
"""
