"""One file of a dataset repository on the Hugging Face hub, at a fixed content."""

import hashlib
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class HubFile:
    """A file to download once: repository, name in it, commit, and the digest where it is known."""

    repo: str
    filename: str
    revision: str
    sha256: str | None = None

    def fetch(self) -> Path:
        """Return the local copy, downloading it into the hub's own cache if need be.

        Raises:
            FileNotFoundError: it is not in the cache and cannot be downloaded.
            ValueError: its content is not the pinned one.
        """
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

        try:
            path = hf_hub_download(
                self.repo, self.filename, repo_type="dataset", revision=self.revision
            )
        except (LocalEntryNotFoundError, HfHubHTTPError, ConnectionError) as error:
            raise FileNotFoundError(
                f"{self.filename} of the dataset repository {self.repo} (revision {self.revision}) "
                f"is needed; it is in no folder of CTXBENCH_DATA and the hub gave none ({error}). "
                "Download it where there is a network and put it in a folder of CTXBENCH_DATA."
            ) from error
        if self.sha256 and (got := file_sha256(Path(path))) != self.sha256:
            raise ValueError(
                f"{self.filename} of {self.repo} has sha256 {got}; this task was made for "
                f"{self.sha256}. Download it again, or give the right file in CTXBENCH_DATA."
            )
        return Path(path)


def file_sha256(path: Path) -> str:
    """Return the hexadecimal SHA-256 of a file."""
    with open(path, "rb") as file:
        digest = hashlib.sha256()
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
