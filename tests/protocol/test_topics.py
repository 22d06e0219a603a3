import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from soundbox_protocol import topics
from soundbox_protocol.topics import DEVICE_ID_PATTERN, Downlink, Uplink

device_ids = st.from_regex(re.compile(r"[a-z0-9][a-z0-9_-]{2,31}"), fullmatch=True).filter(
    lambda text: not text.startswith("hub-")
)


@given(device_ids, st.sampled_from(Uplink))
def test_an_uplink_topic_is_parsed_back(device_id: str, channel: Uplink) -> None:
    assert topics.parse_uplink(topics.uplink(device_id, channel)) == (device_id, channel)
    assert topics.parse_downlink(topics.uplink(device_id, channel)) is None


@given(device_ids, st.sampled_from(Downlink))
def test_a_downlink_topic_is_parsed_back(device_id: str, channel: Downlink) -> None:
    assert topics.parse_downlink(topics.downlink(device_id, channel)) == (device_id, channel)
    assert topics.parse_uplink(topics.downlink(device_id, channel)) is None
    assert topics.downlink(device_id, channel).startswith(topics.downlink_filter(device_id).removesuffix("#"))


@given(st.text())
def test_no_text_upsets_the_parser(text: str) -> None:
    for parsed in (topics.parse_uplink(f"devices/{text}"), topics.parse_downlink(text)):
        assert parsed is None or DEVICE_ID_PATTERN.match(parsed[0])


@pytest.mark.parametrize("wrong", ["", "ab", "a" * 33, "+", "#", "a/b", "abc\n", "Abc", "_abc", "hub-shard-0", "añb"])
def test_what_is_no_device_id_makes_no_topic(wrong: str) -> None:
    with pytest.raises(ValueError, match="not a device id"):
        topics.uplink(wrong, Uplink.STATUS)
    with pytest.raises(ValueError, match="not a device id"):
        topics.downlink(wrong, Downlink.TIME)
    with pytest.raises(ValueError, match="not a device id"):
        topics.downlink_filter(wrong)


def test_the_filter_takes_in_every_uplink() -> None:
    pattern = re.compile(topics.UPLINK_FILTER.replace("+", "[^/]+").replace("#", ".+"))

    assert all(pattern.fullmatch(topics.uplink("dev_1", channel)) for channel in Uplink)
    assert not any(pattern.fullmatch(topics.downlink("dev_1", channel)) for channel in Downlink)
