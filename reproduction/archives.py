"""The stored runs of a study: one compressed archive, `metrics/<study>.tar.xz`.

It holds a folder per run, `<study>/<job>/`, with the files that reports and tables read of what training left there.
`tar -xf` unpacks it as well.
"""

import io
import lzma
import tarfile
from collections.abc import Mapping
from pathlib import Path

from qcnn_lightning.errors import InputError
from qcnn_lightning.files import replace_atomically

SUFFIX = ".tar.xz"
UNREADABLE = (OSError, tarfile.TarError, lzma.LZMAError, EOFError)


def read_archive(path: Path) -> dict[str, bytes]:
    """Return the files of an archive by their names in it.

    Raises:
        InputError: it cannot be read.
    """
    try:
        with tarfile.open(path) as archive:
            return {item.name: file.read() for item in archive if (file := archive.extractfile(item)) is not None}
    except UNREADABLE as error:
        raise InputError(f"{path} cannot be read: {error}") from error


def write_archive(path: Path, files: Mapping[str, bytes]) -> None:
    """Write an archive of these files, by name; one that holds the same files stays as it is.

    Neither times nor owners are stored, and names are sorted, so that the same files are the same archive.

    Raises:
        InputError: an archive that is there already cannot be read, or the new one cannot be written.
    """
    if path.is_file() and read_archive(path) == dict(files):
        return
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:xz", preset=9) as archive:
        for name, content in sorted(files.items()):
            item = tarfile.TarInfo(name)
            item.size = len(content)
            archive.addfile(item, io.BytesIO(content))
    replace_atomically(path, packed.getvalue())


def unpack(path: Path, out: Path) -> Path:
    """Unpack an archive; return the folder of the study, whose runs are as any other sweep's.

    Raises:
        InputError: it cannot be read, or a file cannot be written.
    """
    try:
        with tarfile.open(path) as archive:
            archive.extractall(out, filter="data")
    except UNREADABLE as error:
        raise InputError(f"{path} cannot be unpacked to {out}: {error}") from error
    return out / study_of(path)


def study_of(path: Path) -> str:
    """Return the name of an archive's study."""
    return path.name.removesuffix(SUFFIX)
