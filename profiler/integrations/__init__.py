"""Hooks into other people's training loops; each module imports its library only when it is used."""
