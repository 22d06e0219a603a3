"""QRIS: the text inside a merchant-presented QR code (EMVCo data objects with Bank Indonesia's rules).

A payload is a row of data objects: two digits of tag, two of length, then the value; some values are such rows again.
Reading is lenient, because shops hang up what their bank printed: whatever parses is decoded, and what breaks a rule is
named in `violations`. Writing is strict: what was built is read again and returned only if no rule is broken.
Everything here is pure; the only error that leaves is `QrisRefused`.
"""

import binascii
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace

from soundbox_server.errors import ValidationFailed

CEILING_IDR = 10_000_000  # Bank Indonesia's limit for one QRIS payment
NAME_LENGTH, CITY_LENGTH, POSTAL_LENGTH, PAYLOAD_LENGTH = 25, 15, 10, 512
CRITERIA = frozenset({"UMI", "UKE", "UME", "UBE", "URE"})  # business sizes: micro, small, medium, large, regular
TRANSFERS = frozenset({"DMCT", "CWDL", "CDPT"})  # purposes in 62/08 that pay no merchant: transfer, cash out, cash in
TRANSFER_MCC, TRANSFER_TAG = "4829", "40"
NMID_DOMAIN = "ID.CO.QRIS.WWW"

DataObjects = list[tuple[str, str]]

_ACCOUNT_TAGS = range(26, 52)  # 26-45 acquirers, 51 the national merchant repository
_AMOUNT = re.compile(r"[0-9]{1,13}(\.0{0,2})?")
_PERCENT = re.compile(r"[0-9]{1,2}(\.[0-9]{0,2})?")
_PAN = re.compile(r"9360[0-9]{4,15}")
_NMID = re.compile(r"ID[0-9]{13}")
_PRINTABLE = re.compile(r"[ -~]*")
_CRC = re.compile(r"[0-9A-Fa-f]{4}")
_TYPOGRAPHY = str.maketrans("‘’ʼ“”–—‐‑•øØđĐłŁ", "'''\"\"-----oOdDlL") | str.maketrans(
    {"ß": "ss", "æ": "ae", "Æ": "AE", "œ": "oe"}
)


class QrisRefused(ValidationFailed):
    """A QRIS that cannot be written; `facts["violations"]` names the rules when rules are the reason."""


@dataclass(frozen=True)
class MerchantAccount:
    """One of the templates 26-51; `unparsed` holds the value when it is no row of data objects."""

    tag: str
    reverse_domain: str | None = None
    pan: str | None = None
    merchant_id: str | None = None
    criteria: str | None = None
    unparsed: str | None = None


@dataclass(frozen=True, kw_only=True)
class Qris:
    """What a payload says. Every value is the text as it stands there; name and city lose blanks at their ends."""

    initiation_method: str | None = None  # static, dynamic
    merchant_name: str | None = None
    city: str | None = None
    postal_code: str | None = None
    country: str | None = "ID"
    nmid: str | None = None
    merchant_criteria: str | None = None
    acquirer_domain: str | None = None
    acquirer_merchant_id: str | None = None
    merchant_pan_in_qr: str | None = None
    nns: str | None = None
    merchant_pan_full_19: str | None = None
    mcc: str | None = None
    currency: str | None = "360"
    amount: str | None = None
    tip_indicator: str | None = None
    tip_fixed: str | None = None
    tip_percent: str | None = None
    additional_data: Mapping[str, str] | None = None
    crc: str | None = None
    tag_order: Sequence[str] = ()
    merchant_accounts: Sequence[MerchantAccount] = ()


@dataclass(frozen=True)
class Decoded:
    """`valid`: it parses and its checksum matches. `strict_qris_ok`: no rule is broken; None where it is no QRIS."""

    valid: bool
    strict_qris_ok: bool | None
    violations: tuple[str, ...]
    qris: Qris | None


def decode(payload: str) -> Decoded:
    """Read any text as a QRIS; what is wrong with it is in the answer, nothing is raised."""
    objects = _split(payload)
    violations = _transport_violations(payload, objects)
    if objects is None:
        return Decoded(False, False, tuple(sorted(violations)), None)

    qris = _read(objects)
    is_qris = qris.country == "ID" or qris.currency == "360" or qris.nmid is not None
    if is_qris:
        violations |= _rule_violations(objects, qris)
    return Decoded(
        valid="CRC_MISMATCH" not in violations,
        strict_qris_ok=not violations if is_qris else None,
        violations=tuple(sorted(violations)),
        qris=qris,
    )


def amount_idr(decoded: Decoded) -> int | None:
    """The amount in whole rupiah; None where there is none, or none that could be paid as it stands."""
    qris = decoded.qris
    if qris is None or qris.currency != "360" or not _is_amount(qris.amount):
        return None
    return _rupiah(qris.amount)


def is_transfer(qris: Qris) -> bool:
    """Whether it moves money to somebody and pays no merchant: QRIS transfer, cash out and cash in.

    Money order shops have the same merchant category (4829): a transfer's account stands in tag 40.
    """
    purpose = (qris.additional_data or {}).get("08")
    tags = {account.tag for account in qris.merchant_accounts}
    return purpose in TRANSFERS or (qris.mcc == TRANSFER_MCC and TRANSFER_TAG in tags)


def encode(qris: Qris) -> str:
    """Write a QRIS in the usual order of tags. Names and free text are transliterated to printable ASCII.

    `crc` and `tag_order` are results, not wishes: they are not read. Raises QrisRefused.
    """
    additional = qris.additional_data and [(tag, to_ascii(value)) for tag, value in qris.additional_data.items()]
    objects: list[tuple[str, str | None]] = [
        ("00", "01"),
        ("01", _initiation_tag(qris.initiation_method)),
        *((account.tag, _account_value(account)) for account in _accounts_to_write(qris)),
        ("52", qris.mcc),
        ("53", qris.currency),
        ("54", qris.amount),
        ("55", qris.tip_indicator),
        ("56", qris.tip_fixed),
        ("57", qris.tip_percent),
        ("58", qris.country),
        ("59", qris.merchant_name and to_ascii(qris.merchant_name)),
        ("60", qris.city and to_ascii(qris.city)),
        ("61", qris.postal_code),
        ("62", _join(additional) if additional else None),
    ]
    return _seal([(tag, value) for tag, value in objects if value is not None])


def static_to_dynamic(payload: str, amount_idr: int, tip: Sequence[tuple[str, str]] | None = None) -> str:
    """Put an amount (whole rupiah) and perhaps a tip (data objects 55-57) into a static QRIS; raises QrisRefused.

    A fallback only: the acquirer does not know of it, so no callback names the payment.
    """
    decoded = decode(payload)
    objects = _split(payload)
    if objects is None or not decoded.valid or decoded.strict_qris_ok is None:
        raise QrisRefused("This is no readable QRIS.", violations=decoded.violations)
    if decoded.qris is None or decoded.qris.initiation_method != "static":
        raise QrisRefused("Only a static QRIS can be given an amount.")

    money = [("54", str(amount_idr)), *(tip or ())]
    kept = [(tag, value) for tag, value in objects if tag not in {"54", "55", "56", "57", "63"}]
    place = next((index for index, (tag, _) in enumerate(kept) if tag == "58"), len(kept))
    changed = kept[:place] + money + kept[place:]
    return _seal([(tag, "12" if tag == "01" else value) for tag, value in changed])


def report(payload: str) -> dict[str, object]:
    """The answer of `soundbox qris decode --json`: valid, strict_qris_ok, violations, decoded."""
    decoded = decode(payload)
    return {
        "valid": decoded.valid,
        "strict_qris_ok": decoded.strict_qris_ok,
        "violations": list(decoded.violations),
        "decoded": None if decoded.qris is None else asdict(decoded.qris) | {"tag_order": list(decoded.qris.tag_order)},
    }


def encode_fields(values: Mapping[str, object]) -> str:
    """Write a QRIS from the keys that `report` puts under `decoded` (country and currency default to Indonesia's).

    Instead of `merchant_accounts` the flat keys acquirer_domain, merchant_pan_in_qr, acquirer_merchant_id,
    merchant_criteria and nmid will do. Raises QrisRefused.
    """
    known = {field.name for field in fields(Qris)}
    if unknown := sorted(str(name) for name in values if name not in known):
        raise QrisRefused(f"A QRIS has no field {unknown[0]!r}.", fields=unknown)
    read = {name: _read_field(name, value) for name, value in values.items() if value is not None}
    return encode(Qris(**read))  # type: ignore[arg-type]  # each value was read as its field's type


def to_ascii(text: str) -> str:
    """Printable ASCII with the same meaning (é → e, ’ → '), or QrisRefused where there is none."""
    decomposed = unicodedata.normalize("NFKD", text.translate(_TYPOGRAPHY))
    plain = "".join(character for character in decomposed if not unicodedata.combining(character))
    if not _PRINTABLE.fullmatch(plain):
        raise QrisRefused("This text cannot be written in printable ASCII.", text=text[:100])
    return plain


def fit(text: str, length: int) -> str:
    """As acquirers print a name that is too long: transliterated and cut."""
    return to_ascii(text)[:length].strip()


def crc16(text: str) -> str:
    """CRC-16/CCITT-FALSE over the characters, as four upper-case hex digits."""
    return f"{binascii.crc_hqx(text.encode('utf-8', 'surrogatepass'), 0xFFFF):04X}"


# Reading


def _split(text: str) -> DataObjects | None:
    """The data objects of a row, or None where the lengths do not add up."""
    objects: DataObjects = []
    position = 0
    while position < len(text):
        head = text[position : position + 4]
        if len(head) < 4 or not (head.isascii() and head.isdigit()):
            return None
        end = position + 4 + int(head[2:])
        if end > len(text):
            return None
        objects.append((head[:2], text[position + 4 : end]))
        position = end
    return objects or None


def _read(objects: DataObjects) -> Qris:
    value = dict(reversed(objects)).get  # a tag that is repeated counts as it first stood
    accounts = tuple(_read_account(tag, text) for tag, text in objects if int(tag) in _ACCOUNT_TAGS)
    acquirer = next((account for account in accounts if account.tag <= "45"), MerchantAccount(tag=""))
    repository = next((account for account in accounts if account.tag == "51"), MerchantAccount(tag=""))
    return Qris(
        initiation_method={"11": "static", "12": "dynamic"}.get(value("01", "")),
        merchant_name=_stripped(value("59")),
        city=_stripped(value("60")),
        postal_code=value("61"),
        country=value("58"),
        nmid=repository.merchant_id,
        merchant_criteria=acquirer.criteria or repository.criteria,
        acquirer_domain=acquirer.reverse_domain,
        acquirer_merchant_id=acquirer.merchant_id,
        merchant_pan_in_qr=acquirer.pan,
        nns=acquirer.pan[:8] if acquirer.pan else None,
        merchant_pan_full_19=_full_pan(acquirer.pan),
        mcc=value("52"),
        currency=value("53"),
        amount=value("54"),
        tip_indicator=value("55"),
        tip_fixed=value("56"),
        tip_percent=value("57"),
        additional_data=dict(reversed(_split(value("62", "")) or [])) or None,
        crc=value("63"),
        tag_order=tuple(tag for tag, _ in objects),
        merchant_accounts=accounts,
    )


def _read_account(tag: str, text: str) -> MerchantAccount:
    objects = _split(text)
    if objects is None:
        return MerchantAccount(tag, unparsed=text)
    value = dict(reversed(objects)).get
    return MerchantAccount(tag, value("00"), value("01"), value("02"), value("03"))


def _stripped(text: str | None) -> str | None:
    return None if text is None else text.strip()


def _full_pan(pan: str | None) -> str | None:
    """Nineteen digits: a PAN of eighteen leaves its Luhn digit to the reader."""
    if pan is None or not (pan.isascii() and pan.isdigit()) or len(pan) not in {18, 19}:
        return None
    return pan if len(pan) == 19 else pan + _luhn_digit(pan)


def _luhn_digit(digits: str) -> str:
    doubled = (int(digit) * (2 - index % 2) for index, digit in enumerate(reversed(digits)))
    return str(-sum(number // 10 + number % 10 for number in doubled) % 10)


# Rules


def _transport_violations(payload: str, objects: DataObjects | None) -> set[str]:
    """What is wrong with a payload of any country."""
    written = payload[-4:]
    closed = objects is None or (objects[-1][0] == "63" and len(objects[-1][1]) == 4)
    found = {
        "TLV_MALFORMED": objects is None,
        "TAG00_NOT_FIRST_OR_BAD": objects is not None and objects[0] != ("00", "01"),
        "TAG63_NOT_LAST": not closed,
        # An object after the checksum would not be covered by it: such a payload is not valid, whatever its digits say.
        "CRC_MISMATCH": not (closed and _CRC.fullmatch(written) and written.upper() == crc16(payload[:-4])),
        "CRC_LOWERCASE": bool(_CRC.fullmatch(written)) and written != written.upper() and closed,
        "PAYLOAD_OVER_512": len(payload) > PAYLOAD_LENGTH,
        "NOT_PRINTABLE_ASCII": not _PRINTABLE.fullmatch(payload),
    }
    return {name for name, broken in found.items() if broken}


def _rule_violations(objects: DataObjects, qris: Qris) -> set[str]:
    """What breaks the rules of Bank Indonesia and the standards association."""
    tags = [tag for tag, _ in objects]
    value = dict(reversed(objects)).get
    templates = [_split(text) for tag, text in objects if int(tag) in _ACCOUNT_TAGS or tag == "62"]
    transfer = (qris.additional_data or {}).get("08") in TRANSFERS
    pans = [account.pan for account in qris.merchant_accounts if account.pan is not None and account.tag <= "45"]
    found = {
        "TEMPLATE_MALFORMED": None in templates,
        "TAG_REPEATED": any(_repeats([tag for tag, _ in row]) for row in [objects, *filter(None, templates)]),
        "INITIATION_BAD": value("01", "11") not in {"11", "12"},
        "MERCHANT_ACCOUNT_MISSING": not qris.merchant_accounts,
        "PAN_NOT_9360_NNS": not all(_PAN.fullmatch(pan) for pan in pans),
        "CRITERIA_BAD": qris.merchant_criteria not in CRITERIA and not transfer,
        "STATIC_WITHOUT_TAG51": qris.initiation_method == "static" and "51" not in tags and not transfer,
        "NMID_BAD": "51" in tags and not _NMID.fullmatch(qris.nmid or ""),
        "MCC_BAD": not re.fullmatch(r"[0-9]{4}", qris.mcc or ""),
        "CURRENCY_NOT_360": qris.currency != "360",
        "COUNTRY_NOT_ID": qris.country != "ID",
        "AMOUNT_FORMAT": qris.amount is not None and not _is_amount(qris.amount),
        "AMOUNT_OVER_CEILING": _is_amount(qris.amount) and _rupiah(qris.amount) > CEILING_IDR,
        "TIP_BAD": not _is_tip(qris.tip_indicator, qris.tip_fixed, qris.tip_percent),
        "NAME_MISSING": not qris.merchant_name,
        "NAME_OVER_25": len(value("59", "")) > NAME_LENGTH,
        "CITY_MISSING": not qris.city,
        "CITY_OVER_15": len(value("60", "")) > CITY_LENGTH,
        "POSTAL_CODE_OVER_10": len(value("61", "")) > POSTAL_LENGTH,
    }
    return {name for name, broken in found.items() if broken}


def _repeats(tags: Sequence[str]) -> bool:
    return len(set(tags)) < len(tags)


def _is_amount(text: str | None) -> bool:
    """`1000`, `1000.`, `1000.00`; never zero, and never a fraction of a rupiah, which nobody could pay."""
    return text is not None and len(text) <= 13 and bool(_AMOUNT.fullmatch(text)) and text.strip("0.") != ""


def _rupiah(amount: str | None) -> int:
    return int((amount or "0").partition(".")[0])


def _is_tip(indicator: str | None, fixed: str | None, percent: str | None) -> bool:
    """Asked of the payer (01), a fixed sum (02, in 56) or a share from 00.01 to 99.99 per cent (03, in 57)."""
    match indicator:
        case None | "01":
            return fixed is None and percent is None
        case "02":
            return percent is None and _is_amount(fixed)
        case "03":
            return fixed is None and bool(_PERCENT.fullmatch(percent or "")) and str(percent).strip("0.") != ""
    return False


# Writing


def _seal(objects: DataObjects) -> str:
    """Join, close with the checksum, and read it back: nothing leaves that our own reader would complain about."""
    body = _join([(tag, value) for tag, value in objects if tag != "63"]) + "6304"
    payload = body + crc16(body)
    decoded = decode(payload)
    if not decoded.strict_qris_ok:
        raise QrisRefused(f"This QRIS breaks {', '.join(decoded.violations)}.", violations=decoded.violations)
    if _split(payload) != [*objects, ("63", payload[-4:])]:
        raise QrisRefused("This QRIS reads differently from what was to be written.")
    return payload


def _join(objects: Sequence[tuple[str, str]]) -> str:
    for tag, value in objects:
        if not re.fullmatch(r"[0-9]{2}", tag):
            raise QrisRefused("A tag is two digits.", tag=tag)
        if not 1 <= len(value) <= 99:
            raise QrisRefused("A value has 1 to 99 characters.", tag=tag, length=len(value))
    return "".join(f"{tag}{len(value):02d}{value}" for tag, value in objects)


def _initiation_tag(method: str | None) -> str:
    if method not in {"static", "dynamic"}:
        raise QrisRefused("A QRIS is static or dynamic.", initiation_method=method)
    return "11" if method == "static" else "12"


def _accounts_to_write(qris: Qris) -> Sequence[MerchantAccount]:
    if qris.merchant_accounts:
        return qris.merchant_accounts
    acquirer = MerchantAccount(
        "26", qris.acquirer_domain, qris.merchant_pan_in_qr, qris.acquirer_merchant_id, qris.merchant_criteria
    )
    if qris.nmid is None:
        return [acquirer]
    return [acquirer, MerchantAccount("51", NMID_DOMAIN, None, qris.nmid, qris.merchant_criteria)]


def _account_value(account: MerchantAccount) -> str:
    if account.unparsed is not None or not account.tag.isdigit() or int(account.tag) not in _ACCOUNT_TAGS:
        raise QrisRefused("A merchant account is a template in the tags 26 to 51.", tag=account.tag)
    parts = [("00", account.reverse_domain), ("01", account.pan), ("02", account.merchant_id), ("03", account.criteria)]
    return _join([(tag, value) for tag, value in parts if value is not None])


def _read_field(name: str, value: object) -> object:
    if name == "merchant_accounts":
        return tuple(_read_account_fields(entry) for entry in _list_of(name, value))
    if name == "additional_data":
        return _texts(name, value)
    if name == "tag_order":
        return ()
    if not isinstance(value, str):
        raise QrisRefused(f"{name} must be text.", field=name)
    return value


def _read_account_fields(entry: object) -> MerchantAccount:
    texts = _texts("merchant_accounts", entry, optional=True)
    known = {field.name for field in fields(MerchantAccount)}
    if "tag" not in texts or not texts.keys() <= known:
        raise QrisRefused("A merchant account has tag, reverse_domain, pan, merchant_id and criteria.")
    return replace(MerchantAccount(texts["tag"]), **texts)


def _list_of(name: str, value: object) -> list[object]:
    if not isinstance(value, list | tuple):
        raise QrisRefused(f"{name} must be a list.", field=name)
    return list(value)


def _texts(name: str, value: object, *, optional: bool = False) -> dict[str, str]:
    if not isinstance(value, Mapping):
        raise QrisRefused(f"{name} must be an object.", field=name)
    texts = {key: text for key, text in value.items() if not (optional and text is None)}
    if not all(isinstance(part, str) for pair in texts.items() for part in pair):
        raise QrisRefused(f"{name} must hold texts.", field=name)
    return texts
