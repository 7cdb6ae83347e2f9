"""The stages, by part of the way a row travels; importing a module registers its stages."""
