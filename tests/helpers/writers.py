"""Who writes into a folder: the kernel's notices (fanotify) of what processes change on its file system. Needs root."""

import ctypes
import os
import struct
import threading
from pathlib import Path

FAN_MODIFY = 0x2
FAN_MARK_ADD, FAN_MARK_FILESYSTEM = 0x1, 0x100
EVENT = struct.Struct("=IBBHQii")  # length, version, reserved, length of metadata, what, file descriptor, process


class Writers:
    """Takes notes from its making on: `written` holds pairs of process and path. Raises OSError where it cannot."""

    def __init__(self, folder):
        self.folder, self.written = str(folder.resolve()), []
        libc = ctypes.CDLL(None, use_errno=True)
        self.notices = libc.fanotify_init(0, os.O_RDONLY | os.O_LARGEFILE)
        flags, kinds = FAN_MARK_ADD | FAN_MARK_FILESYSTEM, FAN_MODIFY
        mark = (ctypes.c_int(self.notices), ctypes.c_uint(flags), ctypes.c_uint64(kinds), ctypes.c_int(-100))
        if self.notices < 0 or libc.fanotify_mark(*mark, self.folder.encode()) < 0:
            raise OSError(ctypes.get_errno(), "fanotify: " + os.strerror(ctypes.get_errno()))
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self):
        while notices := os.read(self.notices, 65536):
            while notices:
                length, *_, file, process = EVENT.unpack_from(notices)
                path = str(Path(f"/proc/self/fd/{file}").readlink())
                if path.startswith(self.folder + "/"):
                    self.written.append((process, path))
                os.close(file)
                notices = notices[length:]
