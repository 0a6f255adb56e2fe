"""File names of an MDM are those of ODS in either form."""

import unicodedata

from hypothesis import given
from hypothesis import strategies as st

from jamf_bridge.driver import RemotePackage
from jamf_bridge.mirror.listing import Listing
from jamf_bridge.names import forms, nfc

LETTERS = st.text(
    st.sampled_from("aAeou\u0308\u0301\u00f6\u00e9\u00c5\u212b\uac00\u1100\u1161 .-"), min_size=1
)


@given(LETTERS)
def test_a_record_is_found_in_whatever_form_its_name_is(name: str) -> None:
    ours = nfc(name)
    for form in ("NFC", "NFD"):
        theirs = unicodedata.normalize(form, name)
        assert theirs in forms(ours)
        record = RemotePackage(id="1", file_name=theirs)
        assert Listing([record]).record(ours, "") is record
