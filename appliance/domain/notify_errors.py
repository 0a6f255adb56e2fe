"""What can go wrong with notifications, in the product's tree of errors."""

from .errors import ApplianceError, Conflict, InvalidInput, NotFound


class DestinationUnknown(NotFound):
    """There is no such destination."""

    code = "destination_unknown"


class DestinationExists(Conflict):
    """A destination of this name exists."""

    code = "destination_exists"


class DeliveryUnknown(NotFound):
    """There is no such delivery, or it was purged."""

    code = "delivery_unknown"


class TemplateInvalid(InvalidInput):
    """The template cannot be used."""

    code = "template_invalid"


class DeliveryError(ApplianceError):
    """The destination did not take the notification."""

    code = "delivery_error"
    retryable = True


class DestinationGone(DeliveryError):
    """The destination says that it is gone for good (HTTP 410)."""

    code = "destination_gone"
    retryable = False


class DeliveryRefused(DeliveryError):
    """The notification can never be delivered as it is."""

    code = "delivery_refused"
    retryable = False


class AddressNotAllowed(DeliveryError):
    """The destination's address is not allowed."""

    code = "address_not_allowed"
