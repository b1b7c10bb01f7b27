"""One folder for every temporary file of this process: uploads, results, pictures of sessions.

It is as large as it may be and no larger (the oldest files go first), and it goes with the process, however that ends:
what a killed one left is removed by the next that starts.
"""

import atexit
import getpass
import os
import shutil
import tempfile
import threading
import time
from pathlib import Path

try:
    import fcntl
except ImportError:  # on Windows what a killed process left stays until the system removes it
    fcntl = None

PREFIX = "mdt-studio-"
LOOK_SECONDS = 5.0


class Scratch:
    """Make the folder, and let Python and Gradio, which is imported later, write there.

    `above`: the folder that it lies in; by default the system's.
    """

    def __init__(self, above: Path | None = None):
        above = above or Path(tempfile.gettempdir())
        sweep(above)
        self.folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=above))
        self._lock = lock(self.folder)  # held as long as the process lives
        self._owner = os.getpid()
        # What torch has compiled is for the next start, too
        os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(above / f"torchinductor_{getpass.getuser()}"))
        tempfile.tempdir = str(self.folder)
        os.environ.setdefault("GRADIO_TEMP_DIR", str(self.folder / "gradio"))

        atexit.register(self.remove)

    def keep_small(self, most: int) -> None:
        """See to it from now on that it has at most so many bytes."""
        threading.Thread(target=self._keep_small, args=(most,), daemon=True).start()

    def remove(self) -> None:
        """The end; not that of a process forked from this one."""
        if os.getpid() == self._owner:
            shutil.rmtree(self.folder, ignore_errors=True)

    def _keep_small(self, most: int) -> None:
        while True:
            time.sleep(LOOK_SECONDS)
            make_room(self.folder, most)


def sweep(above: Path) -> None:
    """Remove the folders of processes that are no more."""
    if fcntl is None:
        return
    for folder in above.glob(f"{PREFIX}*"):
        if (folder / "lock").is_file():
            try:
                file = lock(folder)
            except OSError:  # somebody else's, or at work
                continue
            shutil.rmtree(folder, ignore_errors=True)
            os.close(file)


def make_room(folder: Path, most: int) -> None:
    """Delete the oldest files in it until the others have at most so many bytes."""
    total = 0
    for _, size, path in sorted(files_under(folder), reverse=True):  # the latest first
        total += size
        if total > most:
            Path(path).unlink(missing_ok=True)


def lock(folder: Path) -> int:
    """Lock a folder for this process; the open file. OSError where another one has it."""
    file = os.open(folder / "lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    if fcntl is None:
        return file
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(file)
        raise
    return file


def files_under(folder: Path) -> list[tuple[float, int, str]]:
    """(time of the last change, bytes, path) of all files but the lock."""
    found = []
    for above, _, names in os.walk(folder):
        for name in names:
            path = os.path.join(above, name)
            try:
                status = os.stat(path)
            except OSError:  # gone meanwhile
                continue
            if name != "lock":
                found.append((status.st_mtime, status.st_size, path))
    return found
