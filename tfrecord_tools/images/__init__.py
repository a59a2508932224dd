"""Check image files and convert them for storage: `prepare` returns the bytes that a record stores."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tfrecord_tools.images.preparation import BadImage, ImageConfig, Prepared, prepare

__all__ = ["BadImage", "ImageConfig", "Prepared", "prepare"]

if not TYPE_CHECKING:  # With a module `__getattr__`, type checkers would accept any name.

    def __getattr__(name):
        """Import a public name when it is first used: some modules of this package do not need Pillow."""
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from tfrecord_tools.images import preparation

        return getattr(preparation, name)
