"""Load a ruleset with nftables' own library: the one compiler of its language, in one transaction."""

import ctypes
from typing import Final

_LIBRARY: Final = "libnftables.so.1"
_TERSE: Final = 1 << 11  # NFT_CTX_OUTPUT_TERSE


class NftablesError(OSError):
    """The library is missing, or it or the kernel refused a ruleset, of which nothing is loaded."""


class Libnftables:
    """The library; it works in the network namespace of the thread that calls."""

    def __init__(self) -> None:
        """Load it; raises NftablesError where it is missing."""
        try:
            library = ctypes.CDLL(_LIBRARY)
        except OSError as missing:
            raise NftablesError(
                f"{missing}. The gate in the kernel needs nftables' library: install libnftables1 (Debian) or"
                ' nftables, or set kernel.mode = "off"'
            ) from missing
        library.nft_ctx_new.restype = ctypes.c_void_p
        library.nft_ctx_new.argtypes = [ctypes.c_uint32]
        library.nft_ctx_free.argtypes = [ctypes.c_void_p]
        for name in ("nft_ctx_buffer_error", "nft_ctx_buffer_output"):
            getattr(library, name).argtypes = [ctypes.c_void_p]
        library.nft_ctx_get_error_buffer.restype = ctypes.c_char_p
        library.nft_ctx_get_error_buffer.argtypes = [ctypes.c_void_p]
        library.nft_ctx_get_output_buffer.restype = ctypes.c_char_p
        library.nft_ctx_get_output_buffer.argtypes = [ctypes.c_void_p]
        library.nft_ctx_output_set_flags.argtypes = [ctypes.c_void_p, ctypes.c_uint]
        library.nft_ctx_set_dry_run.argtypes = [ctypes.c_void_p, ctypes.c_bool]
        library.nft_run_cmd_from_buffer.argtypes = [ctypes.c_void_p, ctypes.c_char_p]
        self._library = library

    def run(self, text: str, *, dry: bool = False, terse: bool = False) -> str:
        """Run commands in nft's language, all or none; return what they print.

        `dry`: only check them; `terse`: print sets without their elements.

        Raises NftablesError with the library's words.
        """
        library = self._library
        context = library.nft_ctx_new(0)
        if not context:
            raise NftablesError("nftables' library could not begin")
        try:
            library.nft_ctx_buffer_error(context)
            library.nft_ctx_buffer_output(context)
            library.nft_ctx_set_dry_run(context, dry)
            library.nft_ctx_output_set_flags(context, _TERSE if terse else 0)
            if library.nft_run_cmd_from_buffer(context, text.encode()) != 0:
                said = library.nft_ctx_get_error_buffer(context) or b""
                raise NftablesError(f"nftables refused: {said.decode('utf-8', 'replace').strip()[:2000]}")
            return (library.nft_ctx_get_output_buffer(context) or b"").decode("utf-8", "replace")
        finally:
            library.nft_ctx_free(context)
