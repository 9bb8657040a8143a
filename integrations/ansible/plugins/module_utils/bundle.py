"""A directory of files with its digest, as it is on the controller and on a host."""

from __future__ import annotations

import hashlib
import io
import os
import tarfile


def files_in(directory):
    """The regular files below a directory as (path from it, whether it is executable), sorted. Links are followed."""
    found = []
    for parent, directories, names in os.walk(directory, followlinks=True):
        # What version control keeps is not of the plan.
        directories[:] = sorted(name for name in directories if name != '.git')
        for name in names:
            path = os.path.join(parent, name)
            if os.path.isfile(path):
                found.append((os.path.relpath(path, directory), os.access(path, os.X_OK)))
    return sorted(found)


def digest_of_file(path):
    """The SHA-256 of a file, or None if it is not there."""
    try:
        with open(path, 'rb') as file:
            digest = hashlib.sha256()
            for part in iter(lambda: file.read(1 << 20), b''):
                digest.update(part)
            return digest.hexdigest()
    except (FileNotFoundError, NotADirectoryError):
        return None


def digest_of_directory(directory):
    """One digest of all paths, contents and executable bits; None if it is not a directory."""
    if not os.path.isdir(directory):
        return None
    whole = hashlib.sha256()
    for path, executable in files_in(directory):
        mode = 'x' if executable else '-'
        line = '%s %s %s' % (digest_of_file(os.path.join(directory, path)), mode, path)
        whole.update(line.encode('utf-8', 'surrogateescape') + b'\0')
    return whole.hexdigest()


def pack(directory, target):
    """Writes the files to a compressed archive, without owners and times."""
    with tarfile.open(fileobj=target, mode='w:gz', compresslevel=6) as archive:
        for path, executable in files_in(directory):
            with open(os.path.join(directory, path), 'rb') as file:
                content = file.read()
            entry = tarfile.TarInfo(path)
            entry.size = len(content)
            entry.mode = 0o755 if executable else 0o644
            archive.addfile(entry, io.BytesIO(content))


def unpack(archive, directory):
    """Writes the files of an archive into a new directory: regular files below it, and nothing else."""
    os.makedirs(directory, mode=0o755)
    with tarfile.open(archive, mode='r:gz') as packed:
        for entry in packed:
            parts = entry.name.split('/')
            if not entry.isreg() or entry.name.startswith('/') or '..' in parts:
                raise ValueError('unexpected entry `%s` in the archive of the plan' % entry.name)
            path = os.path.join(directory, entry.name)
            os.makedirs(os.path.dirname(path), mode=0o755, exist_ok=True)
            with open(path, 'wb') as file:
                file.write(packed.extractfile(entry).read())
            os.chmod(path, entry.mode & 0o755)
