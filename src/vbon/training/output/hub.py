"""`--push-to-hub`: a finished run as a model repository; what only serves to resume stays here."""

from pathlib import Path

from huggingface_hub import HfApi, get_token
from huggingface_hub.errors import HfHubHTTPError

from vbon.artifacts.run import PRIVATE
from vbon.errors import VbonError


def check_login(repo: str) -> None:
    """Refuse, before the work and not after it, what could not be pushed. Raises VbonError without a token."""
    if get_token() is None:
        raise VbonError(f"--push-to-hub {repo}: not logged in; run `hf auth login` or set HF_TOKEN")


def push_run(folder: Path, repo: str) -> str:
    """Upload model, tokenizer, card, config and metrics in one commit to `repo`, made private where it is new.

    Returns the commit's address. Raises VbonError where the hub refuses; the run itself is complete by then.
    """
    try:
        api = HfApi()
        api.create_repo(repo, private=True, exist_ok=True)
        commit = api.upload_folder(
            repo_id=repo, folder_path=folder, ignore_patterns=PRIVATE, commit_message="A run of vbon"
        )
    except (HfHubHTTPError, OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise VbonError(
            f"--push-to-hub {repo}: {reason}; the run is complete in {folder}: hf upload {repo} {folder}"
        ) from error
    return str(commit.commit_url)
