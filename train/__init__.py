"""The launcher: typed configurations, runs, data and models for `tfweightmirror`.

It imports the library, never the other way round, and is not part of the wheel.
"""
