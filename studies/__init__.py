"""Studies of the package: how its evaluation, its calibration and its replays were made."""
