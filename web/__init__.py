"""HTTP for people: pages over the same services as the admin API.

    pages.py        what every page does: who is asking, headers, errors as a page
    templating.py   Jinja2, and how times, sizes and numbers are shown
    assets.py       static files under an address that changes with their content
    signing_in.py   sign in and out, passwords; the only pages without a session
    navigation.py   what the navigation lists; an area of its own adds its entries there
    live.py         tells an open page what changed (server-sent events)
    routes.py       every address; `/` leads here

Pages only show. Whatever a page changes goes through a call of the admin API, named in the form's `data-call`, so
nothing can be done here that a program could not do as well; only sessions are opened here and nowhere else. Scripts
are ES modules of our own, as they are written: there is no build step, and nothing is fetched from elsewhere.

May import `appliance.api` and everything below it; imported by `appliance.bootstrap` only.
"""
