"""What comes in a file: our own export, and the chats of other programs.

intake.py takes a file; files.py opens it, ZIP or not; pieces.py reads it piece by piece. A module
named after a program reads its chats into the one shape of chats.py, which keeping.py stores;
own.py stores what this program has exported, whose rows rows.py checks.
"""
