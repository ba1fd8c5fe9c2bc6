"""Fields of messages are those that the library writes."""

from __future__ import annotations

import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swapnet.protobuf import encoded, fields

messages = st.builds(
    onnx.TensorProto,
    name=st.text(max_size=200),
    dims=st.lists(st.integers(-(1 << 63), (1 << 63) - 1), max_size=4),
    float_data=st.lists(st.floats(width=32), max_size=4),
    double_data=st.lists(st.floats(), max_size=4),
    raw_data=st.binary(max_size=300),
)


@settings(max_examples=50, deadline=None)
@given(messages)
def test_fields_are_the_message(message: onnx.TensorProto) -> None:
    data = message.SerializeToString()
    found = list(fields(data))
    assert b"".join(data[field.start : field.end] for field in found) == data
    assert {field.number for field in found} == {f.number for f, _ in message.ListFields()}
    payloads = [data[field.content : field.end] for field in found]
    assert message.raw_data in payloads or not message.raw_data


@settings(max_examples=50, deadline=None)
@given(st.binary(min_size=1, max_size=200), st.data())
def test_truncation_is_found(raw: bytes, data: st.DataObject) -> None:
    message = onnx.TensorProto(raw_data=raw).SerializeToString()
    length = data.draw(st.integers(1, len(message) - 1))
    with pytest.raises(ValueError, match=r"missing|cut short"):
        list(fields(message[:length]))


def test_unknown_wire_types_are_refused() -> None:
    with pytest.raises(ValueError, match="wire type 3"):
        list(fields(b"\x0b"))


@given(st.integers(1, 1 << 20), st.binary(max_size=300))
def test_what_is_encoded_is_read_again(number: int, content: bytes) -> None:
    data = encoded(number, content)
    (field,) = fields(data)
    assert (field.number, data[field.content : field.end]) == (number, content)


def test_a_number_of_too_many_bytes_is_refused() -> None:
    with pytest.raises(ValueError, match="ten bytes"):
        list(fields(b"\x80" * 11))
