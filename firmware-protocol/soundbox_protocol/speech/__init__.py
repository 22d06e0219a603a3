"""Amounts and payments in words, for boxes that read aloud, and as clips, for boxes that play recordings.

One implementation for both: a clip is named after the word it holds, so the clips of an amount are its words.
"""

from soundbox_protocol.speech.sentences import CLIPS as CLIPS
from soundbox_protocol.speech.sentences import Language as Language
from soundbox_protocol.speech.sentences import amount_clips as amount_clips
from soundbox_protocol.speech.sentences import amount_words as amount_words
from soundbox_protocol.speech.sentences import code_clips as code_clips
from soundbox_protocol.speech.sentences import code_sentence as code_sentence
from soundbox_protocol.speech.sentences import payment_clips as payment_clips
from soundbox_protocol.speech.sentences import payment_sentence as payment_sentence
