"""Publishing as the asset does it: nothing that may hold a pickle, the files, then the pointer."""

from collections.abc import Callable, Sequence

from ft_assets.core.publish import PublishedFile, Target, folder_of, pointer_to, refuse_pickles


def publish_to(target: Target, fingerprint: str, files: Sequence[PublishedFile], say: Callable[[str], None]) -> None:
    refuse_pickles(files)
    target.put(folder_of(fingerprint), files, say)
    target.write_pointer(pointer_to(fingerprint))
