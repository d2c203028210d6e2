"""Is a checkpoint what its name says?"""
