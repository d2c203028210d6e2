"""Where checkpoints come from: a folder, the Hub, and the stream that hands them to the analyses."""
