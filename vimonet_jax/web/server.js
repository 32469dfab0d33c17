// Says when the server is not the one that this page is from: what was given
// and said is in its memory alone, and gone with it.

const LOOK_MS = 5000;
// Of this tab: by which server its page was opened last.
const PLACE = 'server';
const notice = element.querySelector('.notice');
const own = window.gradio_config.app_id;

function say(text, is_to_reload) {
  notice.replaceChildren(text);
  if (!is_to_reload) return;
  const button = document.createElement('button');
  button.type = 'button';
  button.textContent = 'Reload';
  button.addEventListener('click', () => location.reload());
  notice.append(' ', button);
}

let state = 'same';

function become(found) {
  if (found === state) return;
  state = found;
  if (found === 'same') say('');
  if (found === 'silent')
    say(
      'Expected an answer of the server, found none; wait, and do not reload ' +
        'the page, which would forget what you gave and asked.',
    );
  if (found === 'other')
    say(
      'The server was started again, and what you gave and asked is gone; ' +
        'reload the page to begin anew.',
      true,
    );
}

async function look() {
  try {
    const reply = await fetch('gradio_api/app_id', {cache: 'no-store'});
    const {app_id: now} = await reply.json();
    // What stands before a server speaks JSON, too.
    if (!reply.ok || now === undefined) throw new Error('no answer of its own');
    become(String(now) === String(own) ? 'same' : 'other');
  } catch (error) {
    become('silent');
  }
}

// Gradio reloads a page by itself that was waiting for an answer.
const before = sessionStorage.getItem(PLACE);
sessionStorage.setItem(PLACE, own);
if (before !== null && before !== String(own))
  say('The server was started again, and what you gave and asked is gone.');
setInterval(look, LOOK_MS);
document.addEventListener('visibilitychange', look);
