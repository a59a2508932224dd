"""Identify unsupported files by their first bytes, and advise how to get an image from them.

`_TABLE` lists formats that are often found in folders of images. General libraries return media types, but an error
message needs the common name of the format and the next step.
"""

from __future__ import annotations

import codecs
import dataclasses
import re
from collections.abc import Iterator
from typing import Any

from tfrecord_tools.layout import schema

_Magic = tuple[int, bytes]  # Position in the file, and the bytes there.
_TEXT_BYTES = 1024  # Number of bytes that decide whether a file is text.
_ZIP_BYTES = 4096  # Number of bytes that are searched for the names of the first files in an archive.
_MAX_ICONS = 64
_CONTROL = re.compile(r"[\x00-\x08\x0e-\x1a\x1c-\x1f\x7f]")  # Text does not have these.

_EXPORT = "export it as PNG or JPEG"
_PAGES = "export its pages as PNG or JPEG"
DEVELOP = "develop it to JPEG or TIFF, for example with darktable or rawpy"
_VIDEO = "extract its frames, for example with ffmpeg"
_AUDIO = "it holds sound, not an image"
_UNPACK = "unpack it first"
_DATA = "it holds data; save its images as PNG first"
_OTHER = "it does not hold an image"


@dataclasses.dataclass(frozen=True)
class Kind:
    """A kind of file.

    Attributes:
        name: Name with its article, as in "a PDF document".
        advice: How to get an image from the file, or why that is not possible.
        is_image: Whether the file is an image, in a format that is not supported.
    """

    name: str
    advice: str
    is_image: bool = False


def _kinds(advice: str, *rows: tuple[Any, ...], is_image: bool = False) -> list[tuple[Kind, tuple[_Magic, ...]]]:
    """Return (kind, magic) for each start of each row (name, *starts). Bytes alone are at position 0."""
    return [
        (Kind(name, advice, is_image), ((0, start),) if isinstance(start, bytes) else start)
        for name, *starts in rows
        for start in starts
    ]


def _icons(kind: bytes) -> Iterator[tuple[_Magic, ...]]:
    """Yield one start for each number of pictures in an icon. Byte 9 of an icon is zero."""
    return (((0, b"\0\0" + kind + b"\0" + bytes((count, 0))), (9, b"\0")) for count in range(1, _MAX_ICONS))


_PICKLES = (b"\x80\2c", b"\x80\2}", b"\x80\2]", b"\x80\3c", b"\x80\3}", b"\x80\3]", b"\x80\4\x95", b"\x80\5\x95")
_TABLE = [
    *_kinds(
        "convert its slices to PNG, for example with pydicom or dcmj2pnm",
        ("a DICOM file", ((128, b"DICM"),)),
        is_image=True,
    ),
    *_kinds(
        _EXPORT,
        ("a Photoshop document (PSD)", b"8BPS"),
        ("a GIMP image (XCF)", b"gimp xcf"),
        ("a Krita image", ((0, b"PK\3\4"), (30, b"mimetypeapplication/x-krita"))),
        ("an OpenRaster image", ((0, b"PK\3\4"), (30, b"mimetypeimage/openraster"))),
        ("a Windows icon (ICO)", *_icons(b"\1")),
        ("a Windows cursor (CUR)", *_icons(b"\2")),
        ("an Apple icon (ICNS)", b"icns"),
        ("a DDS texture", b"DDS "),
        ("a BLP texture", b"BLP1", b"BLP2"),
        ("a KTX texture", b"\xabKTX "),
        ("a PVR texture", b"PVR\3"),
        ("an FTEX texture", b"FTEX"),
        ("a Valve texture (VTF)", b"VTF\0"),
        ("a QOI image", b"qoif"),
        ("a FLIF image", b"FLIF"),
        ("a BPG image", b"BPG\xfb"),
        ("a JPEG XR image", b"II\xbc\1"),
        ("an OpenEXR image", b"v/1\1"),
        ("a Radiance HDR image", b"#?RADIANCE", b"#?RGBE"),
        ("a FITS image", b"SIMPLE  ="),
        ("a PCX image", *(((0, bytes((10, version, 1))),) for version in (0, 2, 3, 4, 5))),
        ("an SGI image", b"\1\xda\0\1", b"\1\xda\1\1", b"\1\xda\0\2", b"\1\xda\1\2"),
        ("a Sun raster image", b"\x59\xa6\x6a\x95"),
        ("a FLI animation", ((4, b"\x11\xaf"),), ((4, b"\x12\xaf"),)),
        ("an MNG animation", b"\x8aMNG\r\n\x1a\n"),
        ("a JNG image", b"\x8bJNG\r\n\x1a\n"),
        ("an IFF image", ((0, b"FORM"), (8, b"ILBM")), ((0, b"FORM"), (8, b"PBM "))),
        ("a farbfeld image", b"farbfeld"),
        ("an XPM image", b"/* XPM */", b"! XPM2"),
        ("a PAM image", b"P7\n"),
        ("a PFM image of floating-point colors", b"PF\n"),
        ("a Windows metafile (WMF, EMF)", b"\xd7\xcd\xc6\x9a", ((0, b"\1\0\0\0"), (40, b" EMF"))),
        ("a whole-slide or microscopy image (CZI)", b"ZISRAWFILE"),
        ("a NIfTI volume", ((344, b"n+1\0"),), ((344, b"ni1\0"),)),
        ("an NRRD volume", b"NRRD"),
        ("a MetaImage volume", b"ObjectType = Image"),
        is_image=True,
    ),
    *_kinds(
        _PAGES,
        ("a PostScript file (EPS)", b"%!PS", b"\xc5\xd0\xd3\xc6"),
        ("a PDF document", b"%PDF", b"\xef\xbb\xbf%PDF"),
        ("a DjVu document", b"AT&TFORM"),
        ("an Office document", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", b"{\\rtf"),
        ("an OpenDocument file", ((0, b"PK\3\4"), (30, b"mimetypeapplication/vnd.oasis"))),
        ("an EPUB book", ((0, b"PK\3\4"), (30, b"mimetypeapplication/epub"))),
    ),
    *_kinds(
        DEVELOP,
        ("a raw photograph (CRW)", ((6, b"HEAPCCDR"),)),
        ("a raw photograph (CR3)", ((4, b"ftypcrx "),)),
        ("a raw photograph (RAF)", b"FUJIFILMCCD-RAW"),
        ("a raw photograph (X3F)", b"FOVb"),
        ("a raw photograph (MRW)", b"\0MRM"),
        ("a raw photograph (RW2)", b"IIU\0"),
        ("a raw photograph (ORF)", b"IIRO", b"IIRS", b"MMOR"),
        is_image=True,
    ),
    *_kinds(
        _VIDEO,
        ("an AVI video", ((0, b"RIFF"), (8, b"AVI "))),
        ("a Matroska or WebM video", b"\x1a\x45\xdf\xa3"),
        ("a Flash video", b"FLV\1", b"FWS", b"CWS", b"ZWS"),
        ("a Windows Media file", b"\x30\x26\xb2\x75\x8e\x66\xcf\x11"),
        ("an MPEG video", b"\0\0\1\xba", b"\0\0\1\xb3", ((0, b"G"), (188, b"G"), (376, b"G"))),
        ("a RealMedia file", b".RMF"),
        ("a YUV4MPEG video", b"YUV4MPEG2"),
        ("a QuickTime video", *(((4, name),) for name in (b"moov", b"mdat", b"wide", b"pnot"))),
    ),
    *_kinds(
        _AUDIO,
        ("a WAV recording", ((0, b"RIFF"), (8, b"WAVE")), ((0, b"RF64"), (8, b"WAVE"))),
        ("an AIFF recording", ((0, b"FORM"), (8, b"AIFF")), ((0, b"FORM"), (8, b"AIFC"))),
        ("an MP3 recording", b"ID3", b"\xff\xfb", b"\xff\xf3", b"\xff\xf2"),
        ("an AAC recording", b"\xff\xf1", b"\xff\xf9"),
        ("an M4A recording", ((4, b"ftypM4A"),), ((4, b"ftypM4B"),)),
        ("a FLAC recording", b"fLaC"),
        ("an Ogg recording or video", b"OggS"),
        ("a MIDI file", b"MThd"),
        ("an AU recording", b".snd"),
        ("a CAF recording", b"caff"),
        ("an AMR recording", b"#!AMR"),
    ),
    *_kinds(
        _UNPACK,
        ("a gzip archive", b"\x1f\x8b"),
        ("a bzip2 archive", *(b"BZh%d1AY&SY" % level for level in range(1, 10))),
        ("an xz archive", b"\xfd7zXZ\0"),
        ("a 7z archive", b"7z\xbc\xaf\x27\x1c"),
        ("a RAR archive", b"Rar!\x1a\7"),
        ("a Zstandard archive", b"\x28\xb5\x2f\xfd"),
        ("an LZ4 archive", b"\4\x22\x4d\x18"),
        ("a Unix compress archive", b"\x1f\x9d"),
        ("a cabinet archive", b"MSCF"),
        ("a tar archive", ((257, b"ustar"),)),
        ("an ar archive", b"!<arch>\n"),
        ("a cpio archive", b"070701", b"070707"),
        ("a disk image (ISO)", ((32769, b"CD001"),)),
    ),
    *_kinds(
        _DATA,
        ("a NumPy array", b"\x93NUMPY"),
        ("an HDF5 file", b"\x89HDF\r\n\x1a\n"),
        ("a netCDF file", b"CDF\1", b"CDF\2", b"CDF\5"),
        ("a MATLAB file", b"MATLAB 5.0 MAT-file"),
        ("a Parquet file", b"PAR1"),
        ("an Arrow file", b"ARROW1"),
        ("an Avro file", b"Obj\1"),
        ("an ORC file", b"ORC"),
        ("an SQLite database", b"SQLite format 3\0"),
        ("an LMDB database", ((16, b"\xde\xc0\xef\xbe"),)),
        ("an MXNet RecordIO file", b"\x0a\x23\xd7\xce"),
        ("a pickled Python object", *_PICKLES),
        ("a GRIB file", b"GRIB"),
        ("a BUFR file", b"BUFR"),
        ("a GGUF model", b"GGUF"),
    ),
    *_kinds(
        _OTHER,
        ("the metadata of an image (EXV)", b"\xff\1Exiv2"),
        ("a color profile (ICC)", ((36, b"acsp"),)),
        ("a font", b"\0\1\0\0\0", b"OTTO", b"wOFF", b"wOF2", b"ttcf"),
        ("a macOS resource file", b"\0\5\x16\7", b"\0\5\x16\0", b"\0\0\0\1Bud1"),
        ("a Windows shortcut", b"L\0\0\0\1\x14\2\0"),
        ("a program", b"\x7fELF", b"MZ", b"\xcf\xfa\xed\xfe", b"\xce\xfa\xed\xfe", b"\xca\xfe\xba\xbe", b"\0asm"),
        ("another RIFF file", b"RIFF", b"RIFX"),
    ),
]  # fmt: skip
_INSIDE_ZIP = (  # Part of a file name in the archive -> kind of archive.
    (b"[Content_Types].xml", Kind("an Office document", _PAGES)),
    (b"word/", Kind("an Office document", _PAGES)),
    (b".npy", Kind("an archive of NumPy arrays (NPZ)", _DATA)),
    (b"/data.pkl", Kind("a PyTorch file", _OTHER)),
    (b"AndroidManifest.xml", Kind("a program", _OTHER)),
    (b"META-INF/", Kind("a program", _OTHER)),
)
_HTML = re.compile(rb"<(!doctype html|html|head|body|br\b|title|meta|script)", re.IGNORECASE)
_SVG = re.compile(rb"(<\?xml.*)?(<!.*)?<svg\b", re.DOTALL)
_XBM = re.compile(rb"#define\s+\w+_width\s+\d+\s+#define\s+\w+_height\s")
_TEXTS: tuple[tuple[re.Pattern[bytes], Kind], ...] = (  # Start of the first line that is not empty -> kind of text.
    (_HTML, Kind("an HTML page", "download the file again")),
    (re.compile(rb"version https://git-lfs"), Kind("a Git LFS pointer", "run `git lfs pull` to get the file itself")),
    (re.compile(rb"/annex/objects/"), Kind("a git-annex pointer", "run `git annex get` to get the file itself")),
    (re.compile(rb"HTTP/\d"), Kind("a web server's response with headers", "download the file again")),
    (_SVG, Kind("an SVG drawing", "render it to PNG, for example with Inkscape")),
    (re.compile(rb"<\?xml"), Kind("an XML file", _OTHER)),
    (re.compile(rb"[{\[]"), Kind("a JSON file", _OTHER)),
    (re.compile(rb""), Kind("a text file", _OTHER)),
)


def binary(data: bytes) -> Kind | None:
    """Return the known unsupported binary format of a file, or None."""
    kind = next((kind for kind, magic in _TABLE if _matches(data, magic)), None)
    if kind is not None:
        return kind
    if _XBM.match(data):
        return Kind("an XBM image", _EXPORT, True)
    if data.startswith(b"PK\3\4"):
        return next((kind for name, kind in _INSIDE_ZIP if name in data[:_ZIP_BYTES]), Kind("a ZIP archive", _UNPACK))
    if data[4:8] == b"ftyp":
        return Kind("a video (MP4 or QuickTime)", _VIDEO)
    if schema.data_bytes(data[: schema.HEADER_BYTES]) is not None and any(data[: schema.HEADER_BYTES]):
        return Kind("a TFRecord file", "use `python -m tfrecord_tools.adopt` for TFRecords")
    return None


def text(data: bytes) -> Kind | None:
    """Return the kind of text at the start of a file; None if it does not start with text."""
    head = codecs.getincrementaldecoder("utf-8-sig")()  # Incremental, since the last character may be cut.
    try:
        start = head.decode(data[:_TEXT_BYTES])
    except UnicodeDecodeError:
        return None
    if not start.strip() or _CONTROL.search(start):
        return None
    begin = start.lstrip().encode()
    return next(kind for pattern, kind in _TEXTS if pattern.match(begin))


def _matches(data: bytes, magic: tuple[_Magic, ...]) -> bool:
    return all(data[at : at + len(expected)] == expected for at, expected in magic)


def article(name: str) -> str:
    """Return the indefinite article of a name that is spoken letter by letter, as in "an ICO image"."""
    return "an" if name[:1] in "AEFHILMNORSX" else "a"
