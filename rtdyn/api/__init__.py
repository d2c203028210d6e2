"""What a program in Python calls: the command, and the analyses of a model in memory."""
