"""Errors the caller can act on. Everything else is a bug and stays a 500.

Each class carries the `code` of the API contract and its HTTP `status`; one handler in `http.py` renders them.
"""


class SoundboxError(Exception):
    code = "INTERNAL"
    status = 500
    errors: list[dict[str, object]] | None = None  # for an answer that names several mistakes

    def __init__(self, message: str, **facts: object) -> None:
        super().__init__(message)
        self.message = message
        self.facts = facts
        self.headers: dict[str, str] = {}  # of the answer, beside those that its status brings


class ValidationFailed(SoundboxError):
    code = "VALIDATION_FAILED"
    status = 400


class InvalidAmount(SoundboxError):
    code = "INVALID_AMOUNT"
    status = 400


class InvalidPaymentType(SoundboxError):
    """A method that there is, and that nobody offers here."""

    code = "INVALID_PAYMENT_TYPE"
    status = 422


class Unauthenticated(SoundboxError):
    code = "UNAUTHENTICATED"
    status = 401


class MfaRequired(Unauthenticated):
    """A password alone is not enough."""

    code = "MFA_REQUIRED"


class InvalidSignature(SoundboxError):
    code = "INVALID_SIGNATURE"
    status = 401


class DeviceUnauthorized(SoundboxError):
    code = "DEVICE_UNAUTHORIZED"
    status = 401


class Forbidden(SoundboxError):
    code = "FORBIDDEN"
    status = 403


class NotFound(SoundboxError):
    code = "NOT_FOUND"
    status = 404


class TransactionNotFound(NotFound):
    code = "TRANSACTION_NOT_FOUND"


class InvalidLicense(NotFound):
    """A license key that nobody made, that is somebody else's, or that charges for nobody."""

    code = "INVALID_LICENSE"


class LicenseExpired(Forbidden):
    """A license that is over, or switched off."""

    code = "LICENSE_EXPIRED"


class InsufficientTokens(SoundboxError):
    """A license that has nothing left to pay with."""

    code = "INSUFFICIENT_TOKENS"
    status = 402


class LinkExpired(NotFound):
    """A link that works once: used, too old, or never made."""

    code = "LINK_EXPIRED"


class Conflict(SoundboxError):
    code = "CONFLICT"
    status = 409


class DeviceNotBound(Conflict):
    code = "DEVICE_NOT_BOUND"


class IllegalTransition(Conflict):
    """Something that may not follow the state a row is in."""


class DuplicateRequest(Conflict):
    code = "DUPLICATE_REQUEST"


class WrongCode(Conflict):
    """Not what the box spoke; it can be tried again."""

    code = "WRONG_CODE"


class MerchantIncomplete(Conflict):
    """Facts are missing that every QR carries."""

    code = "MERCHANT_INCOMPLETE"


class FeeRuleMissing(Conflict):
    """Nothing says what this merchant's payments cost."""

    code = "FEE_RULE_MISSING"


class SettlementNotEligible(Conflict):
    """There is nothing to settle, or not yet."""

    code = "SETTLEMENT_NOT_ELIGIBLE"


class MerchantPayoutNotConfigured(Conflict):
    """Nobody has said which account the merchant is paid to, or no bank pays it."""

    code = "MERCHANT_PAYOUT_NOT_CONFIGURED"


class IdempotencyKeyReused(SoundboxError):
    code = "IDEMPOTENCY_KEY_REUSED"
    status = 422


class CredentialsRefused(SoundboxError):
    """Well-formed, and no provider's way to prove who asks."""

    code = "CREDENTIALS_REFUSED"
    status = 422


class WeakPassword(SoundboxError):
    """Long enough, and yet among the first that somebody would try."""

    code = "WEAK_PASSWORD"
    status = 422


class QrNotAccepted(SoundboxError):
    """A QR that may be readable, but cannot hang where somebody wants it."""

    code = "QR_NOT_ACCEPTED"
    status = 422


class CapabilityNotSupported(SoundboxError):
    code = "DEVICE_CAPABILITY_NOT_SUPPORTED"
    status = 422


class BodyTooLarge(SoundboxError):
    code = "PAYLOAD_TOO_LARGE"
    status = 413


class MethodNotAllowed(SoundboxError):
    code = "METHOD_NOT_ALLOWED"
    status = 405


class UnsupportedMediaType(SoundboxError):
    code = "UNSUPPORTED_MEDIA_TYPE"
    status = 415


class RateLimited(SoundboxError):
    code = "RATE_LIMITED"
    status = 429


class GatewayError(SoundboxError):
    code = "GATEWAY_ERROR"
    status = 502


class Overloaded(SoundboxError):
    code = "OVERLOADED"
    status = 503


class PartnerTimeout(SoundboxError):
    code = "PARTNER_TIMEOUT"
    status = 504


class PaymentsClosed(SoundboxError):
    """A setting names something that cannot take payments."""

    code = "PAYMENTS_CLOSED"
    status = 503


class InsufficientBalance(SoundboxError):
    """There is less in the wallet than is to leave it."""

    code = "INSUFFICIENT_BALANCE"
    status = 400


class SessionExpired(SoundboxError):
    """A payment session whose time is over, or that was paid."""

    code = "SESSION_EXPIRED"
    status = 400


class InvalidPin(SoundboxError):
    """Not the wallet's, or there is none yet."""

    code = "INVALID_PIN"
    status = 400


class Locked(SoundboxError):
    """Tried too often: nobody may for a while."""

    code = "LOCKED"
    status = 423
