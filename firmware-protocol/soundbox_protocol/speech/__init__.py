"""Amounts and payments in words, for boxes that read aloud, and as clips, for boxes that play recordings.

One implementation for both: a clip is named after the word it holds, so the clips of an amount are its words.
"""

from soundbox_protocol.speech.sentences import CLIPS as CLIPS
from soundbox_protocol.speech.sentences import Language as Language
from soundbox_protocol.speech.sentences import amount_clips as amount_clips
from soundbox_protocol.speech.sentences import amount_words as amount_words
from soundbox_protocol.speech.sentences import code_clips as code_clips
from soundbox_protocol.speech.sentences import code_sentence as code_sentence
from soundbox_protocol.speech.sentences import digest_clips as digest_clips
from soundbox_protocol.speech.sentences import digest_sentence as digest_sentence
from soundbox_protocol.speech.sentences import here_clips as here_clips
from soundbox_protocol.speech.sentences import here_sentence as here_sentence
from soundbox_protocol.speech.sentences import payment_clips as payment_clips
from soundbox_protocol.speech.sentences import payment_sentence as payment_sentence
from soundbox_protocol.speech.sentences import sound_test_clips as sound_test_clips
from soundbox_protocol.speech.sentences import sound_test_sentence as sound_test_sentence
from soundbox_protocol.speech.sentences import total_clips as total_clips
from soundbox_protocol.speech.sentences import total_sentence as total_sentence
