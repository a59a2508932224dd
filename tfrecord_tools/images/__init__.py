"""The bytes of one file: `prepare` makes of them what a record stores."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tfrecord_tools.images.preparation import BadImage, ImageConfig, Prepared, prepare

__all__ = ["BadImage", "ImageConfig", "Prepared", "prepare"]

if not TYPE_CHECKING:  # A type checker must see that any other name is wrong.

    def __getattr__(name):
        """Load a public name when it is first used: modules of this room that need no Pillow stay light."""
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from tfrecord_tools.images import preparation

        return getattr(preparation, name)
