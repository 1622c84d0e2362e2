"""One file of a dataset repository on the Hugging Face hub, at a fixed content."""

from dataclasses import dataclass
from pathlib import Path

from ctxbench.core.assets import fetched_dir
from ctxbench.tasks.digests import check_digest


@dataclass(frozen=True, kw_only=True)
class HubFile:
    """A file to download once: repository, name in it, commit, and the digest where it is known.

    `family`: what `ctxbench data fetch` calls the data.
    """

    repo: str
    filename: str
    revision: str
    family: str
    sha256: str | None = None

    @property
    def name(self) -> str:
        """What it is called in messages and records."""
        return f"{self.repo}/{self.filename}"

    @property
    def source(self) -> str:
        """Where it is from."""
        return f"the dataset repository {self.repo} (revision {self.revision})"

    def size(self, endpoint: str | None = None) -> int | None:
        """Ask the hub, or a mirror of it, for the size, bytes; None where it does not say."""
        from huggingface_hub import get_hf_file_metadata, hf_hub_url

        place = {"repo_type": "dataset", "revision": self.revision, "endpoint": endpoint}
        return get_hf_file_metadata(hf_hub_url(self.repo, self.filename, **place)).size

    def cached(self) -> bool:
        """Return whether it is in the hub's own cache."""
        from huggingface_hub import try_to_load_from_cache

        return isinstance(
            try_to_load_from_cache(
                self.repo, self.filename, repo_type="dataset", revision=self.revision
            ),
            str,
        )

    def fetch(self, endpoint: str | None = None) -> Path:
        """Return the local copy, downloading it into the hub's own cache if need be.

        Args:
            endpoint: a mirror of the hub.

        Raises:
            FileNotFoundError: it is not in the cache and cannot be downloaded.
            ValueError: its content is not the pinned one, or not that of the first download.
        """
        from huggingface_hub import hf_hub_download

        try:
            path = hf_hub_download(
                self.repo,
                self.filename,
                repo_type="dataset",
                revision=self.revision,
                endpoint=endpoint,
            )
        except Exception as error:  # the hub's own, or of the HTTP library that it happens to use
            if isinstance(error, OSError) and error.errno:  # a full disk
                raise
            raise FileNotFoundError(
                f"{self.filename} of {self.source} is needed; it is in no folder of "
                f"CTXBENCH_DATA and the hub gave none ({str(error).splitlines()[0]}). Run "
                f"`ctxbench data fetch {self.family}` where there is a network, or put the file "
                "into a folder of CTXBENCH_DATA."
            ) from error
        check_digest(fetched_dir(), self.name, Path(path), self.sha256, self.source)
        return Path(path)
