// What is said beside the question: why there is no answer, and, for who hears
// the page, a whole answer at once.
//
// Runs inside Gradio's HTML component, as stage.js does: `element` is what
// told.html has become, `props.value` has the texts `wrong` and `aloud`.

const wrong = element.querySelector('.failed');
const aloud = element.querySelector('.aloud');

function tell() {
  wrong.textContent = props.value.wrong;
  aloud.textContent = props.value.aloud;
}

// What is too long to be seen at once is scrolled with the keyboard, too.
const talk = document.querySelector('#log');
talk.tabIndex = 0;
talk.setAttribute('role', 'region');
talk.setAttribute('aria-label', 'Conversation');

watch('value', tell);
tell();
