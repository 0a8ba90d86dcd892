"""Errors of S3 and botocore, in words that name the fix.

Messages of stores and of botocore may contain access keys, signed headers and whole addresses. So the messages here
don't quote them; they show only a code, a status and the endpoint's host and port.

What passes without anybody's help is a TransientError: what botocore itself would try again, and a lost connection.

Codes: https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from urllib.parse import urlsplit

from botocore import exceptions as boto
from botocore.awsrequest import AWSResponse
from botocore.parsers import ResponseParserError
from botocore.retries.standard import OrRetryChecker, RetryContext, ThrottledRetryableChecker, TransientRetryableChecker

from tasks.errors import RootstockError, SourceError, TransientError
from tasks.images.reason_codes import DamagedAtSourceError, ForbiddenError, RefusalCode, SourceChangedError

ATTEMPTS = 5
"""Most attempts at a request, including the first one, when the store is busy or the connection breaks."""

_RENEW = "Log in again (`aws sso login`) or set new AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN."
_GIVE = (
    "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (and AWS_SESSION_TOKEN if they are temporary), "
    "or AWS_PROFILE to a profile that has them."
)
_EXPIRED = ("the credentials have expired", _RENEW)
_UNKNOWN_KEY = (
    "the store doesn't know this access key",
    "Check AWS_ACCESS_KEY_ID or AWS_PROFILE, and that AWS_ENDPOINT_URL is the store that issued it.",
)
_DENIED = (
    "these credentials don't have the permission",
    "They need s3:ListBucket on the bucket and s3:GetObject on its objects; or the bucket's name is misspelt.",
)
_NO_KEY = ("there is no such object", "Check the key.")
_CHANGED = ("it changed while it was read", "The next run reads it again.")
_REGION = ("the bucket is in another region", "Set AWS_DEFAULT_REGION to the bucket's region.")

_BY_CODE = {
    "ExpiredToken": _EXPIRED,
    "ExpiredTokenException": _EXPIRED,
    "TokenRefreshRequired": _EXPIRED,
    "InvalidToken": ("the session token is not valid", _RENEW),
    "InvalidAccessKeyId": _UNKNOWN_KEY,
    "InvalidClientTokenId": _UNKNOWN_KEY,
    "SignatureDoesNotMatch": (
        "the secret key doesn't fit the access key",
        "Check AWS_SECRET_ACCESS_KEY: it was cut off, or belongs to another key.",
    ),
    "AccessDenied": _DENIED,
    "AllAccessDisabled": _DENIED,
    "AccountProblem": _DENIED,
    "RequestTimeTooSkewed": ("this machine's clock is wrong", "Set it (timedatectl set-ntp true)."),
    "NoSuchBucket": ("there is no such bucket", "Check its name, and AWS_ENDPOINT_URL if it is not at Amazon."),
    "NoSuchKey": _NO_KEY,
    "NoSuchVersion": _NO_KEY,
    "PreconditionFailed": _CHANGED,
    "InvalidRange": _CHANGED,
    "InvalidObjectState": ("it is archived", "Restore it from Glacier first (`aws s3api restore-object`)."),
    "PermanentRedirect": _REGION,
    "AuthorizationHeaderMalformed": _REGION,
    "IllegalLocationConstraintException": _REGION,
}
_BY_STATUS = {403: _DENIED, 404: _NO_KEY, 412: _CHANGED, 416: _CHANGED}
_FORBIDDEN = ("AccessDenied", "InvalidObjectState")
"""Codes that may be about a single object; other refusals are about the credentials."""
_BUSY = (408, 429, 500, 502, 503, 504)
"""Statuses of a store, or of a server before it, that has too much to do or is out of order."""
_RETRYABLE = OrRetryChecker([TransientRetryableChecker(), ThrottledRetryableChecker()])
_LOGIN_FAILED = (
    boto.CredentialRetrievalError,
    boto.TokenRetrievalError,
    boto.MetadataRetrievalError,
    boto.RefreshWithMFAUnsupportedError,
    boto.SSOError,
    boto.LoginError,
)


@contextlib.contextmanager
def explained(what: str, endpoint: str | None, *, was_listed: bool = False) -> Iterator[None]:
    """Turn every error of botocore inside the block into a TransientError, if it may pass by itself, or a SourceError.

    Args:
        what: the failed action, such as `s3://bucket/prefix can't be listed`.
        endpoint: the client's address; messages show only its host and port.
        was_listed: the object was there a while ago, so that a missing one is a SourceChangedError, and one that isn't
            given is a ForbiddenError.
    """
    try:
        yield
    except boto.ClientError as error:
        message = f"{what}: {_refusal(error, host_of(endpoint))}"
        if _known(error) is _CHANGED:
            raise SourceChangedError(message, RefusalCode.CHANGED_WHILE_READ) from None
        if _known(error) is _NO_KEY and was_listed:
            raise SourceChangedError(message, RefusalCode.GONE) from None
        if _code(error) in _FORBIDDEN and was_listed:
            raise ForbiddenError(message) from None
        raise (TransientError if _is_busy(error) else SourceError)(message) from None
    except boto.BotoCoreError as error:
        raise _kind(error)(f"{what}: {_failure(error, host_of(endpoint))}") from None
    except (ResponseParserError, KeyError, ValueError):
        raise SourceError(f"{what}: {_no_store(host_of(endpoint))}") from None


def status_of(error: boto.ClientError) -> int:
    """The HTTP status of a response, 0 if it has none."""
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def _code(error: boto.ClientError) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))


def _known(error: boto.ClientError) -> tuple[str, str] | None:
    """What a response means, and what fixes it."""
    return _BY_CODE.get(_code(error)) or _BY_STATUS.get(status_of(error))


def _is_busy(error: boto.ClientError) -> bool:
    """Whether the store, or a server before it, may answer otherwise later."""
    status = status_of(error)
    answer = AWSResponse("", status, {}, None)
    return status in _BUSY or _RETRYABLE.is_retryable(
        RetryContext(1, parsed_response=error.response, http_response=answer)
    )


def _passes(error: boto.BotoCoreError) -> bool:
    """Whether the connection may work later. A certificate that isn't trusted stays so."""
    if isinstance(error, boto.SSLError):
        return "CERTIFICATE_VERIFY_FAILED" not in str(error)
    if isinstance(error, (boto.IncompleteReadError, boto.MetadataRetrievalError)):
        return True
    return bool(_RETRYABLE.is_retryable(RetryContext(1, caught_exception=error)))


def _kind(error: boto.BotoCoreError) -> type[RootstockError]:
    if isinstance(error, boto.FlexibleChecksumError):
        return DamagedAtSourceError
    return TransientError if _passes(error) else SourceError


def _refusal(error: boto.ClientError, host: str) -> str:
    code, status, known = _code(error), status_of(error), _known(error)
    shown = code if re.fullmatch(r"[A-Za-z.]{1,60}", code) else f"HTTP {status}"
    if known:
        return f"{known[0]} ({shown}). {known[1]}"
    if status in _BUSY and shown != code:  # botocore reports a page that is not XML as 500
        return f"the server at {host} is out of order, or is not an S3 store. Check AWS_ENDPOINT_URL."
    if _is_busy(error):
        return (
            f"the store is out of order or busy; it answered {status} ({shown}), also in later attempts (up to "
            f"{ATTEMPTS}). The images read so far are kept."
        )
    return f"the store refused ({shown}, HTTP {status}). Look the code up in the store's list of error codes."


def _failure(error: boto.BotoCoreError, host: str) -> str:
    if isinstance(error, (boto.NoCredentialsError, boto.PartialCredentialsError)):
        return f"there are no credentials. {_GIVE}"
    if isinstance(error, boto.ProfileNotFound):
        return "AWS_PROFILE names no profile of ~/.aws/config. Correct or unset it."
    if isinstance(error, _LOGIN_FAILED):
        return f"the credentials can't be fetched ({type(error).__name__}). {_RENEW}"
    if isinstance(error, boto.ProxyConnectionError):
        return "the proxy can't be reached. Check HTTPS_PROXY, HTTP_PROXY and NO_PROXY."
    if isinstance(error, boto.SSLError):
        return _untrusted(error, host)
    if isinstance(error, (boto.EndpointConnectionError, boto.ConnectTimeoutError)):
        return f"{host} can't be reached. Check AWS_ENDPOINT_URL (unset for Amazon itself) and the network."
    if isinstance(error, boto.FlexibleChecksumError):
        return "the bytes don't match the store's checksum. Run again, or upload the object again."
    if isinstance(error, (boto.HTTPClientError, boto.IncompleteReadError)):
        return f"the connection to {host} broke again and again. The images read so far are kept."
    if isinstance(error, boto.PaginationError):
        return (
            f"the listing of {host} repeats itself. The server doesn't follow the S3 protocol; ask its administrator."
        )
    return f"botocore gave up ({type(error).__name__}). Check AWS_* variables and ~/.aws/config."


def _untrusted(error: boto.SSLError, host: str) -> str:
    if _passes(error):
        return f"the encrypted connection to {host} could not be made."
    return f"the certificate of {host} is not trusted. Set AWS_CA_BUNDLE to the file of its authority."


def _no_store(host: str) -> str:
    return f"the server at {host} is not an S3 store. Check AWS_ENDPOINT_URL: http://HOST:PORT or https://HOST."


def host_of(endpoint: str | None) -> str:
    """Host and port of an address, without the part before an @."""
    with contextlib.suppress(ValueError):
        parts = urlsplit(endpoint or "")
        if parts.hostname:
            return parts.hostname + (f":{parts.port}" if parts.port else "")
    return "the endpoint"
