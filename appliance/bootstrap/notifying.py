"""Makes the parts of notifications from the settings."""

import random
from concurrent.futures import Executor

from appliance.domain.errors import InvalidInput, InvalidSettings
from appliance.peering.tls import client_context
from appliance.service.notifications import Notifications
from appliance.service.notifications.addresses import Policy
from appliance.service.notifications.bodies import Teller
from appliance.service.notifications.deliveries import Deliveries
from appliance.service.notifications.destinations import Destinations
from appliance.service.notifications.mailbox import MailServer, check_address
from appliance.service.notifications.outbox import Outbox
from appliance.service.notifications.sending import Sending
from appliance.service.secrets import SecretBox
from appliance.store.ports import Store
from config.settings import Settings

from .clock import now_ms

_PORTS = {"none": 25, "starttls": 587, "implicit": 465}


def connect_notifications(
    settings: Settings, store: Store, box: SecretBox, teller: Teller, threads: Executor
) -> Notifications:
    """Make the parts and tie them together. Nothing runs yet.

    Raises:
        InvalidSettings: The mail server of the settings cannot be used.
    """
    policy = Policy(
        hosts=settings.notifications.allowed_hosts, allow_private=settings.notifications.allow_private
    )
    mail = _mail_server(settings)
    destinations = Destinations(
        store=store, box=box, policy=policy, teller=teller, mail_is_set_up=mail is not None, now=now_ms
    )
    deliveries = Deliveries(store=store, destinations=destinations, now=now_ms, jitter=random.random)
    sending = Sending(
        store=store,
        destinations=destinations,
        deliveries=deliveries,
        policy=policy,
        teller=teller,
        mail=mail,
        trust=lambda: client_context(pinned=False, ca_file=settings.http.tls.ca_file),
        now=now_ms,
    )
    return Notifications(
        destinations=destinations,
        deliveries=deliveries,
        outbox=Outbox(store=store, destinations=destinations, deliveries=deliveries, now=now_ms),
        sending=sending,
        threads=threads,
    )


def _mail_server(settings: Settings) -> MailServer | None:
    mail = settings.mail
    if not mail.host:
        return None
    try:
        trust = None if mail.tls == "none" else client_context(pinned=False, ca_file=mail.ca_file)
        sender = check_address(mail.sender)
    except OSError as exc:
        raise InvalidSettings(f"mail.ca_file: {mail.ca_file}: {exc.strerror or exc}.") from exc
    except InvalidInput as exc:
        raise InvalidSettings(f"mail.sender: {exc.message}") from exc
    return MailServer(
        host=mail.host,
        port=mail.port or _PORTS[mail.tls],
        tls=mail.tls,
        sender=sender,
        username=mail.username,
        password=mail.password,
        trust=trust,
    )
