// Gradio copies what a component holds, at every status of an event whose input it is: of a list of a thousand classes
// each name and number by itself. What is no object is its own copy, and needs no machinery.
() => {
  const clone = window.structuredClone;
  const isObject = (value) => Object(value) === value;
  window.structuredClone = (value, options) => (isObject(value) ? clone(value, options) : value);
};
