"""Files on the server's disk: what visitors upload and what they download.

All of them lie in one folder, which only this process reads and writes. They are deleted an hour after they
were written, and all at once when the process ends; what a killed process has left is swept by the next one.
"""

import asyncio
import atexit
import ipaddress
import logging
import os
import secrets
import shutil
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from dystyle.errors import InputError

logger = logging.getLogger(__name__)

PREFIX = "dystyle-page-"
FILE_SECONDS = 3600  # a file is deleted when it is this old
SWEEP_SECONDS = 60
LARGEST_FILE = 64 * 2**20  # bytes of an upload
UPLOAD_BYTES = 2**31  # of all uploads together; what came first goes first
ADDRESS_BYTES = 2**28  # of the uploads from one address
DISK_BYTES = 2**32  # of everything in the folder
URL_SECONDS, REDIRECTS, FETCHES = 20, 3, 4  # of a photo from the web; so many are fetched at once

FOLDER = Path(tempfile.mkdtemp(prefix=PREFIX)).resolve()
CACHE = FOLDER / "cache"  # what Gradio serves
SCRATCH = FOLDER / "scratch"  # what is being written
for folder in (CACHE, SCRATCH):
    folder.mkdir()
os.environ["GRADIO_TEMP_DIR"] = str(CACHE)  # Gradio reads it when it is imported


def remove_all(process: int = os.getpid()) -> None:
    """Delete the folder; a forked process leaves it alone."""
    if os.getpid() == process:
        shutil.rmtree(FOLDER, ignore_errors=True)


atexit.register(remove_all)


def sweep(kept: Iterable[str] = (), seconds: float = FILE_SECONDS, most: int = DISK_BYTES) -> None:
    """Delete what is too old, here and in the folders of processes that were killed.

    Args:
        kept: files that stay, such as the page's examples.
        seconds: the age from which on a file is deleted.
        most: bytes that may lie in this process's folder; beyond them, the oldest files go first.
    """
    kept, now = set(kept), time.time()
    os.utime(FOLDER)  # still in use
    for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        files, held = [], 0
        for inside, folders, names in os.walk(folder, topdown=False):
            for name in names:
                path = os.path.join(inside, name)
                try:
                    found = os.lstat(path)
                except OSError:  # has just been deleted, or belongs to somebody else
                    continue
                if path not in kept:
                    files.append((found.st_mtime, found.st_size, path))
                    held += found.st_size
            for name in folders:
                _remove_if_empty(Path(inside, name), now - seconds)
        for written, size, path in sorted(files):
            if now - written > seconds or held > most:
                Path(path).unlink(missing_ok=True)
                held -= size
        if folder != FOLDER:
            _remove_if_empty(folder, now - seconds)


def _remove_if_empty(folder: Path, before: float) -> None:
    if folder in (CACHE, SCRATCH):
        return
    try:
        if folder.stat().st_mtime < before:
            folder.rmdir()
    except OSError:  # it is not empty, or belongs to somebody else
        pass


@dataclass
class Upload:
    """A file that was uploaded.

    Attributes:
        address: of the visitor.
        session: the only one that may use the file; "" until one has.
        size: bytes.
    """

    address: str
    size: int
    session: str = ""


@dataclass
class Uploads:
    """Who may use which file: what a visitor uploaded, only this visitor.

    An upload's path holds 192 random bits, so nobody but who uploaded it can name it; the first session that
    does is the only one from then on.

    Attributes:
        own: files that everybody may use: the page's examples.
        urls: whether a photo may be given as an address on the web.
    """

    own: frozenset[str] = frozenset()
    urls: bool = False
    _uploads: dict[str, Upload] = field(default_factory=dict)
    _fetching: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(FETCHES))

    def place(self) -> Path:
        """A new folder that nobody can guess, for one upload."""
        folder = CACHE / secrets.token_urlsafe(24)
        folder.mkdir(parents=True)
        return folder

    def add(self, path: str, address: str) -> None:
        """Note a file that was uploaded from `address`; where there are too many, the oldest are deleted."""
        self._uploads[path] = Upload(address, os.path.getsize(path))
        self._trim({p: u for p, u in self._uploads.items() if u.address == address}, ADDRESS_BYTES)
        self._trim(self._uploads, UPLOAD_BYTES)

    def _trim(self, uploads: dict[str, Upload], most: int) -> None:
        held = sum(upload.size for upload in uploads.values())
        for path, upload in list(uploads.items())[:-1]:  # in the order in which they came
            if held <= most:
                break
            held -= upload.size
            self._uploads.pop(path, None)
            Path(path).unlink(missing_ok=True)

    def forget(self) -> None:
        """Forget uploads whose files have been swept."""
        for path in [path for path in self._uploads if not os.path.exists(path)]:
            del self._uploads[path]

    def may_see(self, path: str, address: str) -> bool:
        """Whether a file may be sent to `address`: an upload only to where it came from."""
        upload = self._uploads.get(os.path.realpath(path))
        return upload is None or upload.address == address

    async def accept(self, given: dict, session: str | None, address: str) -> dict:
        """A file as a visitor names it, as Gradio's FileData, if this visitor may use it.

        Raises:
            InputError: the visitor may not, whether there is such a file or not.
        """
        path, name = given.get("path"), given.get("orig_name")
        if isinstance(path, str) and path.lower().startswith(("http://", "https://")):
            if not self.urls:
                raise InputError("Photos are not fetched from the web here; upload the file.")
            path = await self._fetch(path, address)
        if not (isinstance(path, str) and (path in self.own or self._claim(path, session))):
            raise InputError("This file was not uploaded by you, or is gone; upload it again.")
        name = name if isinstance(name, str) else os.path.basename(path)
        return {"path": path, "orig_name": name[-100:], "meta": {"_type": "gradio.FileData"}}

    def _claim(self, path: str, session: str | None) -> bool:
        upload = self._uploads.get(path)
        if upload is None or not os.path.exists(path):
            return False
        if session and not upload.session:
            upload.session = session
        return upload.session == (session or "")

    async def _fetch(self, url: str, address: str) -> str:
        """Download a picture from a public address."""
        folder = self.place()
        path = str(folder / "photo")
        try:
            async with self._fetching:
                await asyncio.wait_for(_download(url, path), URL_SECONDS)
        except (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError, asyncio.TimeoutError) as error:
            shutil.rmtree(folder, ignore_errors=True)
            logger.info("A photo from the web was refused: %s", error)
            raise InputError("The photo could not be fetched from this address; upload the file.") from None
        self.add(path, address)
        return path


async def _download(url: str, path: str) -> None:
    for _ in range(REDIRECTS + 1):
        asked = httpx.URL(url)
        if asked.scheme not in ("http", "https"):
            raise ValueError("neither http nor https")
        # The very address that was checked is connected to: a second look-up could give another one.
        address = await public_address(asked.host)
        host = f"[{address}]" if ":" in address else address
        async with (
            httpx.AsyncClient(trust_env=False, timeout=10) as client,
            client.stream(
                "GET",
                asked.copy_with(host=host),
                headers={"Host": asked.netloc.decode(), "Accept-Encoding": "identity"},
                extensions={"sni_hostname": asked.host},
            ) as response,
        ):
            if response.has_redirect_location:
                url = str(asked.join(response.headers["Location"]))
                continue
            response.raise_for_status()
            held = 0
            with open(path, "wb") as file:
                async for chunk in response.aiter_raw():
                    held += len(chunk)
                    if held > LARGEST_FILE:
                        raise ValueError("larger than an upload may be")
                    file.write(chunk)
            return
    raise ValueError("too many redirects")


async def public_address(host: str) -> str:
    """The IP address of a host on the public internet.

    Raises:
        ValueError: one of its addresses is private, of this machine, or otherwise not public.
    """
    found = await asyncio.get_running_loop().getaddrinfo(host, None)
    addresses = [sockaddr[0].partition("%")[0] for *_, sockaddr in found]
    for address in map(ipaddress.ip_address, addresses):
        if not address.is_global or address.is_multicast:
            raise ValueError("not a public address")
    return addresses[0]
