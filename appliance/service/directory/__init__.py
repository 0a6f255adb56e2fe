"""People of an LDAP server or Active Directory.

    directory     asks the servers in order, within bounds of time and number; the only face to other rooms
    lookup        one person, and their groups with the groups that these are in
    conversation  one connection: its certificate is checked before anything is said on it. The only file that
                  opens LDAP connections
    naming        names in filters and DNs, made safe and comparable
    grants        what groups give: a role, and the stages of an operator

A sign-in is search, then bind: the node's own account finds the person's DN, a second connection tries their
password there, and the first one reads their groups. Nothing here is stored; `service.accounts` keeps who came.

ldap3 blocks, so all of it runs in threads of this package, and an answer that does not come costs a bounded time.
"""

from .directory import Directory, Step
from .lookup import Person

__all__ = ["Directory", "Person", "Step"]
