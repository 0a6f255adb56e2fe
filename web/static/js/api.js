// Calls of the admin API from a page, with its session.
import { signInAgain } from "./session.js";

const meta = (name) => document.querySelector(`meta[name="${name}"]`);

/** What every call that changes something has to repeat. */
export const xsrf = () => meta("xsrf").content;

/** An answer that is not a success: `message`, `status`, `code`, `fields` (a sentence a field). */
export class CallFailed extends Error {
  constructor(status, problem) {
    super(problem.detail || `The node answered ${status}.`);
    this.status = status;
    this.code = problem.code || "";
    this.fields = problem.fields || {};
    this.problem = problem;
  }
}

/** Call the API; `path` goes behind /api/v1, and with `match` what has another ETag is left alone. An expired session asks for the password, and then goes on. */
export async function call(method, path, body, match) {
  for (;;) {
    const headers = { Accept: "application/json", "X-XSRF-Token": xsrf() };
    if (body !== undefined) headers["Content-Type"] = "application/json";
    if (match) headers["If-Match"] = `"${match}"`;
    if (path.startsWith("/uploads")) headers["Tus-Resumable"] = "1.0.0"; // uploads speak tus
    let answer;
    try {
      answer = await fetch(`/api/v1${path}`, { method, headers, body: body === undefined ? undefined : JSON.stringify(body) });
    } catch {
      throw new CallFailed(0, { detail: "The node does not answer. Nothing is known to have changed; try again." });
    }
    if (answer.status === 401) {
      await signInAgain();
      continue;
    }
    const data = answer.status === 204 ? null : await answer.json().catch(() => ({}));
    if (!answer.ok) throw new CallFailed(answer.status, data || {});
    return data;
  }
}
