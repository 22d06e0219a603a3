"""What every writer of files needs: a rename that a power cut does not undo."""

import os
from pathlib import Path


def sync_folder(folder: Path) -> None:
    """Wait for the disk to know the folder's entries: a new name, and a rename, is durable only then. Blocks."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
