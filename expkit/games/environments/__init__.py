"""Environments of Gymnasium and PettingZoo as games to record from."""
